"""What Prometheus is told, and that the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from llmsvc.proxy.metrics import Metrics

ROOT = Path(__file__).parents[3]
ROW: dict[str, Any] = {
    "path": "/v1/chat/completions",
    "status_code": 200,
    "state": "ok",
    "model": "smollm2",
    "prompt_tokens": 10,
    "completion_tokens": 21,
    "duration_ms": 3000,
    "queue_ms": 700,
    "first_token_ms": 1000,
}
STATE = {
    "model": "smollm2", "running": 1, "waiting": 2, "tokens_per_second": 36.8, "progress": None,
    "database": True, "ledger_backlog": 512, "last_switch": None,
}  # fmt: skip


def told(*rows: dict[str, Any]) -> dict[str, float]:
    metrics = Metrics()
    status: Any = SimpleNamespace(now=lambda: STATE, slots=1, ledger=SimpleNamespace(fill=0.25))
    metrics.watch(status)
    for row in rows:
        metrics.count(row)
    lines = metrics.text().decode().splitlines()
    return {name: float(value) for name, value in (x.rsplit(" ", 1) for x in lines if x[0] != "#")}


def test_a_request_is_counted_with_its_tokens_and_times() -> None:
    found = told(ROW, ROW)
    labels = 'model="smollm2",path="/v1/chat/completions",state="ok",status="200"'
    assert found[f"llmsvc_requests_total{{{labels}}}"] == 2
    assert found['llmsvc_tokens_total{direction="in",model="smollm2"}'] == 20
    assert found['llmsvc_tokens_total{direction="out",model="smollm2"}'] == 42
    assert found['llmsvc_request_seconds_sum{model="smollm2"}'] == 6
    assert found['llmsvc_queue_seconds_bucket{le="0.5",model="smollm2"}'] == 0
    assert found['llmsvc_queue_seconds_bucket{le="1.0",model="smollm2"}'] == 2
    assert found['llmsvc_first_token_seconds_sum{model="smollm2"}'] == 2
    assert found['llmsvc_answer_tokens_per_second_sum{model="smollm2"}'] == 20


def test_what_reached_no_model_is_counted_without_times() -> None:
    refused = {"path": "/v1/embeddings", "status_code": 401, "state": "rejected_key"}
    found = told(refused)
    labels = 'model="none",path="/v1/embeddings",state="rejected_key",status="401"'
    assert found[f"llmsvc_requests_total{{{labels}}}"] == 1
    assert not any(name.startswith("llmsvc_request_seconds_count") and found[name] for name in found)


def test_the_present_state_is_told() -> None:
    found = told()
    assert found['llmsvc_model_ready{model="smollm2"}'] == 1
    assert (found["llmsvc_requests_running"], found["llmsvc_requests_waiting"]) == (1, 2)
    assert (found["llmsvc_database_up"], found["llmsvc_ledger_fill_ratio"]) == (1, 0.25)


def test_the_dashboard_asks_for_what_there_is() -> None:
    names = {re.sub(r"\{.*", "", name) for name in told(ROW)}
    dashboard = json.loads((ROOT / "packaging" / "grafana" / "llmsvc.json").read_text())
    asked = {
        name
        for panel in dashboard["panels"]
        for target in panel["targets"]
        for name in re.findall(r"llmsvc_\w+", target["expr"])
    }
    assert len(asked) > 10
    assert asked <= names
