"""What Prometheus reads: counters and histograms of ended requests, and the present state."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from llmsvc.proxy.access import Row
from llmsvc.proxy.status import Status

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

# from a hello to a long answer, from an empty queue to a full one
_SECONDS = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600)
_TOKENS_PER_SECOND = (1, 2.5, 5, 10, 20, 40, 80, 160, 320, 640)
_NONE = "none"


class Metrics:
    """The metrics of one proxy. Names of users are no labels: there may be ten thousand."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        labels = ("model",)
        self._requests = Counter(
            "llmsvc_requests", "Requests that ended, refused ones too.", ("path", "status", "state", "model"),
            registry=self._registry,
        )  # fmt: skip
        self._tokens = Counter(
            "llmsvc_tokens",
            "Tokens of prompts and of answers.",
            ("direction", "model"),
            registry=self._registry,
        )
        self._duration = Histogram(
            "llmsvc_request_seconds", "From acceptance to the last byte.", labels, buckets=_SECONDS,
            registry=self._registry,
        )  # fmt: skip
        self._queued = Histogram(
            "llmsvc_queue_seconds", "Wait for the model.", labels, buckets=_SECONDS, registry=self._registry
        )
        self._first_token = Histogram(
            "llmsvc_first_token_seconds", "From acceptance to the first byte of the answer.", labels,
            buckets=_SECONDS, registry=self._registry,
        )  # fmt: skip
        self._speed = Histogram(
            "llmsvc_answer_tokens_per_second", "Speed of an answer after its first byte.", labels,
            buckets=_TOKENS_PER_SECOND, registry=self._registry,
        )  # fmt: skip
        self._known: dict[tuple[object, ...], _Children] = {}

    def watch(self, status: Status) -> None:
        """From now on the present state is told too."""
        self._registry.register(_State(status))

    def count(self, row: Row) -> None:
        """A request has ended; `row` is that of the ledger, or of one that was refused before it got any."""
        key = (row["path"], row["status_code"], row["state"], row.get("model") or _NONE)
        children = self._known.get(key)
        if children is None:
            children = self._known[key] = _Children(self, *map(str, key))
        children.count(row)

    def text(self) -> bytes:
        """All of it in Prometheus' text format."""
        return generate_latest(self._registry)


class _Children:
    """The metrics of one kind of request: looking labels up is dear."""

    def __init__(self, metrics: Metrics, path: str, status: str, state: str, model: str) -> None:
        self._requests = metrics._requests.labels(path, status, state, model)
        self._prompt = metrics._tokens.labels("in", model)
        self._completion = metrics._tokens.labels("out", model)
        self._duration = metrics._duration.labels(model)
        self._queued = metrics._queued.labels(model)
        self._first_token = metrics._first_token.labels(model)
        self._speed = metrics._speed.labels(model)

    def count(self, row: Row) -> None:
        self._requests.inc()
        if row.get("model") is None:
            return
        prompt, completion = _number(row["prompt_tokens"]), _number(row["completion_tokens"])
        duration, first = _number(row["duration_ms"]), row["first_token_ms"]
        self._prompt.inc(prompt)
        self._completion.inc(completion)
        self._duration.observe(duration / 1000)
        self._queued.observe(_number(row["queue_ms"]) / 1000)
        if isinstance(first, int):
            self._first_token.observe(first / 1000)
            if completion > 1 and duration > first:
                self._speed.observe((completion - 1) * 1000 / (duration - first))


class _State(Collector):
    """Read when asked for."""

    def __init__(self, status: Status) -> None:
        self._status = status

    def collect(self) -> Iterator[Metric]:
        now = self._status.now()
        model = now["model"]
        up = GaugeMetricFamily("llmsvc_model_ready", "1 for the model that answers.", labels=["model"])
        if model is not None:
            up.add_metric([str(model)], 1)
        yield up
        switch = now["last_switch"]
        gauges = {
            "llmsvc_requests_running": ("Requests in the model.", now["running"]),
            "llmsvc_requests_waiting": ("Requests in the queue.", now["waiting"]),
            "llmsvc_slots": ("Requests that the model does at once.", self._status.slots),
            "llmsvc_model_tokens_per_second": (
                "Tokens per second of the model's time within the last minute.",
                now["tokens_per_second"],
            ),
            "llmsvc_load_progress_percent": ("How much of the coming model is loaded.", now["progress"]),
            "llmsvc_database_up": ("1 while PostgreSQL answers.", now["database"]),
            "llmsvc_ledger_backlog_bytes": ("Rows that PostgreSQL does not have yet.", now["ledger_backlog"]),
            "llmsvc_ledger_fill_ratio": ("The part of the spool that is taken.", self._status.ledger.fill),
            "llmsvc_last_switch_timestamp_seconds": (
                "When another model was ready for the last time.",
                switch["at"] if isinstance(switch, dict) else None,
            ),
        }
        for name, (meaning, value) in gauges.items():
            yield GaugeMetricFamily(name, meaning, value=_number(value))


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0
