"""What the proxy costs: requests and streams a second, added latency, memory, and how that grows.

    sudo tests/run bench                      # sets up all that is needed
    python -m tests.bench.proxy [--runs 5] [--seconds 3] [--only NAME]... [--json FILE] [--hour]

The same load goes to the proxy, to nginx as a plain reverse proxy, and to the mock alone, in turns. The proxy
has key check, limits, queue and ledger to PostgreSQL all on, and one core. Each number is the median of the
runs, and every run checks that the ledger has exactly one row for every request. docs/performance.md says
what it means.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from llmsvc.errors import Error
from tests.bench.rig import Cluster, Cores, Rig, cluster, rig

# as most clients send it: the proxy has to put in the model's name and a bound
WHOLE = {
    "model": "current",
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Say in a few words what a reverse proxy does, and why. " * 4},
    ],
}
STREAM = {**WHOLE, "stream": True, "stream_options": {"include_usage": True}}
AT_ONCE = {**STREAM, "mock": {"tokens": 64}}
_PERIOD = 0.05
_MEMORY_KEYS, _MEMORY_STREAMS = 10_000, 500

Found = dict[str, float]

# head, key of what is found, width, digits
_COLUMNS = [
    ("per s", "rate", 7, 0), ("p50", "p50", 7, 2), ("p95", "p95", 7, 2), ("p99", "p99", 7, 2),
    ("largest", "largest", 8, 1), ("CPU µs", "cpu", 7, 0), ("MB", "rss", 6, 1),
]  # fmt: skip


class Wanted(NamedTuple):
    """A bound of design section 9: `value` is a key of what is found, added is: beyond the mock alone."""

    value: str
    bound: float
    text: str
    added: bool = False

    def reached(self, found: Found, alone: Found) -> bool:
        """Whether the proxy keeps to it."""
        value = found[self.value] - (alone[self.value] if self.added else 0.0)
        return value >= self.bound if self.value == "rate" else value <= self.bound


class Scenario(NamedTuple):
    """One load. Those whose names begin alike, up to a `-`, take turns."""

    name: str
    text: str
    slots: int
    users: int
    run: Callable[[Rig, str, float], Found]
    wanted: list[Wanted] = []
    beside: tuple[str, ...] = ("nginx", "mock")


def requests(clients: int, body: dict[str, Any]) -> Callable[[Rig, str, float], Found]:
    """Load by wrk."""
    return lambda rig, target, seconds: rig.wrk(rig.targets[target], clients, seconds, body)


def open_streams(count: int) -> Callable[[Rig, str, float], Found]:
    """So many streams at once, each with 20 events a second."""

    def run(rig: Rig, target: str, seconds: float) -> Found:
        tokens = max(20, round(seconds / _PERIOD))
        body = {**STREAM, "mock": {"tokens": tokens, "period": _PERIOD}}
        found = rig.streams(rig.targets[target], count, body)
        if "cpu" in found:
            found["cpu"] *= found["answers"] / found["events"]
        return found

    return run


SCENARIOS = [
    Scenario(
        "whole", "16 clients, 16 slots", 16, 16, requests(16, WHOLE),
        [Wanted("rate", 4000, "≥ 4,000/s"), Wanted("p99", 8.0, "p99 ≤ 8 ms")],
    ),
    Scenario(
        "single", "1 client", 16, 16, requests(1, WHOLE),
        [Wanted("p50", 0.5, "p50 ≤ mock + 0.5 ms", added=True)],
    ),
    Scenario(
        "streams", "16 clients, streams of 64 events", 16, 16, requests(16, AT_ONCE),
        [Wanted("rate", 1500, "≥ 1,500/s")],
    ),
    Scenario(
        "slot", "16 clients, 1 slot", 1, 16, requests(16, WHOLE),
        [Wanted("rate", 2000, "≥ 2,000/s"), Wanted("p99", 20.0, "p99 ≤ 20 ms")],
    ),
    Scenario("open-10", "10 open streams, 20 events/s", 2000, 16, open_streams(10), beside=()),
    Scenario("open-100", "100 open streams", 2000, 16, open_streams(100), beside=()),
    Scenario(
        "open-500", "500 open streams", 2000, 16, open_streams(500),
        [Wanted("largest", 250.0, "no gap > 250 ms")],
    ),
    Scenario("open-1000", "1,000 open streams", 2000, 16, open_streams(1000), beside=()),
    Scenario("keys-10", "16 clients, 10 keys", 16, 10, requests(16, WHOLE), beside=()),
    Scenario("keys-1000", "16 clients, 1,000 keys", 16, 1000, requests(16, WHOLE), beside=()),
    Scenario("keys-10000", "16 clients, 10,000 keys", 16, 10_000, requests(16, WHOLE), beside=()),
    Scenario(
        "memory", "10,000 keys, 500 open streams", 2000, _MEMORY_KEYS, open_streams(_MEMORY_STREAMS),
        [Wanted("rss", 110.0, "≤ 110 MB")], beside=(),
    ),
]  # fmt: skip


def measure(
    postgres: Cluster, cores: Cores, scenarios: list[Scenario], runs: int, seconds: float
) -> dict[str, dict[str, Found]]:
    """The medians by scenario and target."""
    results: dict[str, dict[str, Found]] = {}
    for _, group in itertools.groupby(scenarios, lambda scenario: scenario.name.partition("-")[0]):
        results |= _measure_in_turns(postgres, cores, list(group), runs, seconds)
    print("\r\033[K", end="", file=sys.stderr)
    return results


def _measure_in_turns(
    postgres: Cluster, cores: Cores, scenarios: list[Scenario], runs: int, seconds: float
) -> dict[str, dict[str, Found]]:
    """Loads that are compared with each other take turns, for a machine is faster at times."""
    samples: dict[str, dict[str, list[Found]]] = {}
    with contextlib.ExitStack() as exits:
        rigs: dict[tuple[int, int], Rig] = {}
        for number, scenario in itertools.product(range(runs), scenarios):
            kind = (scenario.slots, scenario.users)
            if kind not in rigs:
                rigs[kind] = exits.enter_context(rig(postgres, cores, slots=kind[0], users=kind[1]))
            for target in ("proxy", *scenario.beside):
                print(f"\r\033[K{scenario.text}: {target}, run {number + 1}", end="", file=sys.stderr)
                found = scenario.run(rigs[kind], target, seconds)
                samples.setdefault(scenario.name, {}).setdefault(target, []).append(found)
    return {name: {to: _median(found) for to, found in by.items()} for name, by in samples.items()}


def _median(samples: list[Found]) -> Found:
    return {name: statistics.median(sample[name] for sample in samples) for name in samples[0]}


def table(scenarios: list[Scenario], results: dict[str, dict[str, Found]]) -> Iterator[str]:
    """The lines of the table."""
    heads = " ".join(f"{head:>{width}}" for head, _, width, _ in _COLUMNS)
    yield f"{'load':33} {'to':6} {heads}  wanted"
    for scenario in scenarios:
        text = scenario.text
        found = results[scenario.name]
        alone = found.get("mock", {})
        for target, values in found.items():
            verdict = ""
            if target == "proxy":
                checks = [(wanted.text, wanted.reached(values, alone)) for wanted in scenario.wanted]
                verdict = ", ".join(f"{what}: {'yes' if ok else 'NO'}" for what, ok in checks)
            numbers = " ".join(
                f"{_show(values.get(name), digits):>{width}}" for _, name, width, digits in _COLUMNS
            )
            yield f"{text:33} {target:6} {numbers}  {verdict}".rstrip()
            text = ""


def _show(value: float | None, digits: int) -> str:
    return "" if value is None or math.isnan(value) else f"{value:,.{digits}f}"


def ratios(scenarios: list[Scenario], results: dict[str, dict[str, Found]]) -> Iterator[str]:
    """How the proxy compares with what was measured beside it."""
    for scenario in scenarios:
        found = results[scenario.name]
        for target in scenario.beside:
            part = found["proxy"]["rate"] / found[target]["rate"]
            more = found["proxy"]["p50"] - found[target]["p50"]
            yield f"{scenario.text}: {part:.3f} of the rate of {target}, p50 {more:+.2f} ms"


def hour(postgres: Cluster, cores: Cores, minutes: int) -> Iterator[str]:
    """Memory while 500 streams and bursts of requests come and go; one line a minute."""
    with rig(postgres, cores, slots=2000, users=_MEMORY_KEYS) as running:
        for minute in range(1, minutes + 1):
            end = time.monotonic() + 60
            streams = open_streams(_MEMORY_STREAMS)(running, "proxy", 45)["rss"]
            whole = requests(16, WHOLE)(running, "proxy", 5)["rss"]
            yield f"minute {minute:2}: {streams:.1f} MB with streams, {whole:.1f} MB after requests"
            time.sleep(max(0.0, end - time.monotonic()))


def main() -> int:
    """Returns 1 if a bound was not kept."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], epilog="Loads: " + ", ".join(s.name for s in SCENARIOS)
    )
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=3.0, help="of each run")
    names = [scenario.name for scenario in SCENARIOS]
    parser.add_argument(
        "--only", action="append", choices=names, metavar="NAME", help="this load; may be repeated"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="writes the numbers there too")
    parser.add_argument(
        "--hour", nargs="?", type=int, const=60, metavar="MINUTES", help="only memory over an hour"
    )
    parser.add_argument(
        "--alone",
        action="store_true",
        help="runs before all other processes of the machine (SCHED_RR); with --seconds 0.5, for the kernel "
        "holds such processes up once a second",
    )
    args = parser.parse_args()
    scenarios = [s for s in SCENARIOS if args.only is None or s.name in args.only]
    cores = Cores()
    with cluster() as postgres:
        if args.alone:
            # not the database: it would hold up the load for as long as a batch of rows takes
            os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        if args.hour is not None:
            for line in hour(postgres, cores, args.hour):
                print(line, flush=True)
            return 0
        results = measure(postgres, cores, scenarios, args.runs, args.seconds)
    for line in [*table(scenarios, results), "", *ratios(scenarios, results)]:
        print(line)
    if args.json is not None:
        args.json.write_text(json.dumps(results, indent=2) + "\n")
    good = all(
        wanted.reached(results[s.name]["proxy"], results[s.name].get("mock", {}))
        for s in scenarios
        for wanted in s.wanted
    )
    return 0 if good else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Error as error:
        sys.exit(f"bench: {error}" + (f"\nhint: {error.hint}" if error.hint else ""))
