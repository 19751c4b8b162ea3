"""systemd/rollback.py: which model comes next, when a retry is due, and that operators come first."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from llmsvc import paths
from llmsvc.systemd import manager, rollback
from llmsvc.systemd.journal import Journal

JOURNAL = Journal("test")


class Host:
    """A host with models `a`, `b` and `c`, the history `good`, and a systemd that takes every start."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.offered: list[str] = []
        self.alerts: list[str] = []
        self.started: list[str] = []
        self.jobs: list[set[str]] = []
        self.running: str | None = None
        self.refused: set[str] = set()
        self.stops_retry = False
        (root / "models.d").mkdir()
        for name in "abc":
            (root / "models.d" / f"{name}.env").touch()
        self.good("a", "b", "c")

    def good(self, *names: str) -> None:
        (self.root / "good").write_text("".join(f"{name}\n" for name in names))

    def offer(self, name: str) -> bool:
        self.offered.append(name)
        return name not in self.refused

    def systemctl(self, argv: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        self.started.append(" ".join(argv[1:]))
        words = f"Job for {rollback.RETRY_UNIT} canceled." if self.stops_retry else ""
        return subprocess.CompletedProcess(argv, int(self.stops_retry), "", words)

    def next_jobs(self) -> set[str]:
        return self.jobs.pop(0) if self.jobs else set()

    def fails(self, name: str, default: str | None = "c") -> rollback.Rollback | None:
        return rollback.roll_back(name, default, JOURNAL)

    def ready(self) -> None:
        """What instance-hook does once a model is READY."""
        paths.FAILED_MODELS.unlink(missing_ok=True)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    for name, path in {
        "RUN": tmp_path,
        "FAILED_MODELS": tmp_path / "failed",
        "ASKED": tmp_path / "asked",
        "CRASHES": tmp_path / "crashes",
        "ROLLBACK": tmp_path / "rollback.json",
        "GOOD_MODELS": tmp_path / "good",
        "MODELS_D": tmp_path / "models.d",
    }.items():
        monkeypatch.setattr(paths, name, path)
    (tmp_path / "asked").mkdir()
    (tmp_path / "crashes").mkdir()
    monkeypatch.setattr(manager, "jobs", host.next_jobs)
    monkeypatch.setattr(manager, "running", lambda: host.running)
    monkeypatch.setattr(manager, "offer", host.offer)
    monkeypatch.setattr(manager, "alert", host.alerts.append)
    monkeypatch.setattr(rollback, "run", host.systemctl)
    monkeypatch.setattr(rollback, "_reason", lambda failed, journal: f"{failed} is a dud")
    return host


def test_the_latest_good_model_but_the_failed_one_is_started(host: Host) -> None:
    done = host.fails("a")
    assert done and (done.to, done.reason, done.retry_at) == ("b", "a is a dud", None)
    assert rollback.last() == done
    assert host.alerts == ["rollback"]


def test_a_chain_of_failures_tries_each_once_and_then_plans_a_retry_of_the_default(host: Host) -> None:
    for name in ("x", "a", "b", "c"):
        host.fails(name)
    assert host.offered == ["a", "b", "c"]
    last = rollback.last()
    assert last and (last.to, last.delay) == ("c", 10)
    assert last.retry_at and abs(last.retry_at - time.time() - 10) < 5
    assert host.started == [f"restart {rollback.RETRY_UNIT}"]
    assert host.alerts == ["rollback", "rollback", "rollback", "no-model"]


def test_a_default_that_never_was_ready_comes_after_the_good_ones(host: Host) -> None:
    host.good("a")
    host.fails("x", "c")
    host.fails("a", "c")
    assert host.offered == ["a", "c"]


def test_an_operator_who_stops_the_retry_while_it_starts_ends_it_too(host: Host) -> None:
    host.good("c")
    host.fails("x")
    host.stops_retry = True
    done = host.fails("c")
    assert done == rollback.last() and done and (done.to, done.retry_at) == (None, None)


def test_each_wait_is_twice_the_last_up_to_five_minutes(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    host.good("c")
    host.fails("x")
    host.fails("c")
    waits = []
    for _ in range(7):
        last = rollback.last()
        assert last
        waits.append(last.delay)
        rollback.retry(lambda: "c", JOURNAL)
        host.fails("c")
    assert waits == [10, 20, 40, 80, 160, 300, 300]
    assert host.offered == ["c"] * 8
    assert host.alerts == ["rollback", "no-model"]


def test_a_retry_tries_the_default_and_then_the_latest_good_one(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    for name in ("x", "a", "b", "c"):
        host.fails(name)
    host.offered.clear()
    rollback.retry(lambda: "c", JOURNAL)
    host.fails("c")
    host.fails("a")
    assert host.offered == ["c", "a"]
    last = rollback.last()
    assert last and (last.to, last.delay) == ("c", 20)


def test_an_operators_own_start_that_fails_begins_anew(host: Host) -> None:
    for name in ("x", "a", "b", "c"):
        host.fails(name)
    host.offered.clear()
    host.fails("c")  # while its retry waits
    assert host.offered == ["a"]


def test_once_a_model_was_ready_all_may_be_tried_again(host: Host) -> None:
    host.fails("a")
    host.ready()
    host.fails("b")
    assert host.offered == ["b", "a"]


def test_a_model_that_was_given_up_lately_is_not_gone_back_to(host: Host) -> None:
    now = time.time()
    for name, age in (("a", 30), ("b", 3000)):
        (paths.CRASHES / name).write_text(f"{now - age:.3f} signal\n" * 5)
    done = host.fails("c")
    assert done and done.to == "b"


def test_nothing_is_done_about_an_end_that_was_asked_for(host: Host) -> None:
    (paths.ASKED / "a").touch()
    assert host.fails("a") is None
    assert host.offered == [] and rollback.last() is None
    assert host.fails("a")


def test_another_model_or_command_comes_first(host: Host) -> None:
    host.running = "b"
    assert host.fails("a") is None
    host.running = None
    host.jobs = [{"stop"}, {"start", "stop"}, {"start"}]
    assert host.fails("a") is None
    host.refused, host.jobs = {"b", "c"}, [set(), {"start"}]
    assert host.fails("a", None) is None
    assert rollback.last() is None and host.alerts == []


@pytest.mark.parametrize(
    ("states", "jobs", "at_work"),
    [
        ("failed\ninactive\n", "", False),
        ("inactive\ndeactivating\n", "", True),
        ("active\n", "", True),
        # between two failures
        ("inactive\n", "7 llama-server-rollback@a.service start waiting\n", True),
    ],
)
def test_a_rollback_is_at_work_until_the_last_failure_has_been_seen_to(
    monkeypatch: pytest.MonkeyPatch, states: str, jobs: str, at_work: bool
) -> None:
    said = {"is-active": states, "list-jobs": jobs}

    def systemctl(argv: list[str], *, check: bool) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(argv, 3, said[argv[1]], "")

    monkeypatch.setattr(rollback, "run", systemctl)
    assert rollback.at_work() is at_work


def test_the_model_that_is_still_stopping_is_waited_for(host: Host) -> None:
    host.jobs = [{"stop"}, {"stop"}]
    done = host.fails("x")
    assert done and done.to == "a"


def test_one_that_systemd_does_not_take_is_passed_over(host: Host) -> None:
    host.refused = {"a"}
    done = host.fails("x")
    assert done and done.to == "b"


def test_without_any_model_there_is_only_the_alert(host: Host) -> None:
    host.good()
    done = host.fails("x", None)
    assert done and (done.to, done.retry_at) == (None, None)
    assert host.alerts == ["no-model"] and host.started == []


def test_a_retry_waits_for_an_operators_command(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x", "a", "b", "c"):
        host.fails(name)
    host.offered.clear()
    host.running = "b"
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            host.running = None

    monkeypatch.setattr(time, "sleep", sleep)
    rollback.retry(lambda: "c", JOURNAL)
    assert host.offered == ["c"] and len(slept) >= 3


def test_a_retry_that_is_stopped_gives_its_plan_up(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x", "a", "b", "c"):
        host.fails(name)

    def stopped(seconds: float) -> None:
        raise SystemExit(0)

    monkeypatch.setattr(time, "sleep", stopped)
    with pytest.raises(SystemExit):
        rollback.retry(lambda: "c", JOURNAL)
    last = rollback.last()
    assert last and (last.to, last.retry_at) == (None, None)


def test_a_retry_that_is_restarted_leaves_the_new_plan(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x", "a", "b", "c"):
        host.fails(name)

    def another_failure(seconds: float) -> None:
        for name in ("y", "a", "b", "c"):
            host.fails(name)
        raise SystemExit(0)

    monkeypatch.setattr(time, "sleep", another_failure)
    with pytest.raises(SystemExit):
        rollback.retry(lambda: "c", JOURNAL)
    last = rollback.last()
    assert last and last.to == "c" and last.retry_at


def test_a_retry_that_systemd_refuses_comes_later_and_later(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    host.refused = {"a", "b", "c"}
    host.fails("x")
    delays: list[int] = []

    def sleep(seconds: float) -> None:
        plan = rollback.last()
        assert plan
        if plan.delay not in delays:
            delays.append(plan.delay)
        if len(delays) == 4:
            host.refused = set()

    monkeypatch.setattr(time, "sleep", sleep)
    rollback.retry(lambda: "c", JOURNAL)
    assert delays == [10, 20, 40, 80]


def test_a_retry_without_any_model_left_plans_nothing(host: Host, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x", "a", "b", "c"):
        host.fails(name)
    host.good()
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    rollback.retry(lambda: None, JOURNAL)
    last = rollback.last()
    assert last and (last.to, last.retry_at) == (None, None)
