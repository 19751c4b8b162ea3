"""units/instance-hook: marks an instance ready, keeps the history of good models, says what an end means."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from llmsvc import paths


class Hook:
    """The hook with directories of the test's own, and a systemctl that notes how it was called.

    `jobs` is what it says to list-jobs. `said` are the hook's lines in the journal.
    """

    def __init__(self, root: Path) -> None:
        self.instance, self.good, self.run = root / "llama-server/m", root / "good-models", root / "llmsvc"
        self.retry, self.calls, self.jobs = root / "llmsvc-retry", root / "calls", ""
        self.said: list[str] = []
        self.instance.mkdir(parents=True)
        text = paths.data("units", "instance-hook").read_text()
        text = text.replace("/run/", f"{root}/").replace(str(paths.GOOD_MODELS), str(self.good))
        self.used = root / "used-models"
        text = text.replace(str(paths.USED_MODELS), str(self.used))
        self.script = root / "hook"
        self.script.write_text(text)
        (root / "bin").mkdir()
        (root / "bin/systemctl").write_text(
            f'#!/bin/sh\nif [ "$1" = list-jobs ]; then cat {root}/jobs; else echo "$@" >>{self.calls}; fi\n'
        )
        (root / "bin/systemctl").chmod(0o755)
        self.root = root

    def __call__(self, *arguments: str, result: str = "", ended: tuple[str, str] = ("exited", "1")) -> None:
        (self.root / "jobs").write_text(self.jobs)
        done = subprocess.run(
            ["/bin/sh", self.script, *arguments],
            check=True,
            stdout=subprocess.PIPE,
            text=True,
            env={
                "PATH": f"{self.root}/bin:{os.environ['PATH']}",
                "SERVICE_RESULT": result,
                "EXIT_CODE": ended[0],
                "EXIT_STATUS": ended[1],
            },
        )
        self.said = done.stdout.splitlines()

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []

    def crashes(self) -> list[str]:
        file = self.run / "crashes/m"
        return file.read_text().splitlines() if file.exists() else []


GIVEN_UP = "stop --no-block llama-server@m.service"
JOB = "123 llama-server@m.service {}\n"


@pytest.fixture
def hook(tmp_path: Path) -> Hook:
    return Hook(tmp_path)


def test_a_ready_model_is_marked_and_heads_the_history(hook: Hook) -> None:
    hook.good.write_text("a\nm\nb\n")
    hook("started", "m")
    assert (hook.instance / "ready").exists()
    assert hook.good.read_text().split() == ["m", "a", "b"]


def test_a_link_that_the_backend_made_is_not_followed(hook: Hook, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.write_text("x")
    (hook.instance / "ready").symlink_to(precious)
    hook("started", "m")
    assert precious.read_text() == "x"
    assert not (hook.instance / "ready").is_symlink()


def test_once_a_model_is_ready_those_that_failed_may_be_tried_again(hook: Hook) -> None:
    hook.run.mkdir()
    failed = hook.run / "failed-models"
    failed.write_text("a\n")
    hook("stopped", "a", result="exit-code")
    assert failed.exists()
    hook("started", "m")
    assert not failed.exists()


def test_once_a_model_is_ready_no_retry_waits_any_more(hook: Hook) -> None:
    hook("started", "m")
    assert hook.called() == []
    hook.retry.mkdir()
    hook("started", "m")
    assert hook.called() == ["stop --no-block llmsvc-retry.service"]


def test_the_history_is_bounded(hook: Hook) -> None:
    hook.good.write_text("".join(f"m{i}\n" for i in range(50)))
    hook("started", "m")
    assert len(hook.good.read_text().split()) == 20


def test_a_clean_stop_forgets_crashes_and_does_nothing_else(hook: Hook) -> None:
    hook("started", "m")
    hook("stopped", "m", result="signal", ended=("killed", "KILL"))
    hook("started", "m")
    hook("stopped", "m", result="success", ended=("exited", "0"))
    assert not (hook.instance / "ready").exists()
    assert hook.crashes() == [] and hook.called() == []


@pytest.mark.parametrize("job", ["", JOB.format("start running")])
@pytest.mark.parametrize(
    ("result", "ended"),
    [
        ("exit-code", ("exited", "203")),
        ("signal", ("killed", "SEGV")),
        ("core-dump", ("dumped", "ABRT")),
        ("timeout", ("killed", "KILL")),
        ("oom-kill", ("killed", "KILL")),
        ("protocol", ("exited", "0")),
    ],
)
def test_any_failure_before_ready_forbids_the_restart_and_tells_why(
    hook: Hook, job: str, result: str, ended: tuple[str, str]
) -> None:
    hook.jobs = job
    hook("stopped", "m", result=result, ended=ended)
    assert hook.called() == [GIVEN_UP]
    assert len(hook.said) == 1 and hook.said[0].startswith("<3>m: ") and ended[1] in hook.said[0]
    assert hook.crashes() == []


@pytest.mark.parametrize(("status", "called"), [("78", []), ("1", [GIVEN_UP])])
def test_nothing_is_added_to_what_the_backend_said_itself(hook: Hook, status: str, called: list[str]) -> None:
    hook("stopped", "m", result="exit-code", ended=("exited", status))
    assert hook.called() == called
    assert hook.said == []


@pytest.mark.parametrize("job", ["stop running", "restart running", "start waiting", "stop waiting"])
@pytest.mark.parametrize("ready", [True, False])
def test_an_end_that_an_operator_asked_for_is_no_failure_whatever_its_result(
    hook: Hook, job: str, ready: bool
) -> None:
    if ready:
        hook("started", "m")
    hook.jobs = JOB.format(job)
    hook("stopped", "m", result="timeout", ended=("killed", "KILL"))
    assert hook.called() == [] and hook.said == [] and hook.crashes() == []
    assert (hook.run / "asked/m").exists()


def test_a_crash_after_ready_is_noted_and_the_restart_left_to_systemd(hook: Hook) -> None:
    hook("started", "m")
    hook("stopped", "m", result="signal", ended=("killed", "SEGV"))
    assert hook.called() == []
    assert not (hook.instance / "ready").exists()
    ((stamp, result),) = (line.split() for line in hook.crashes())
    assert abs(float(stamp) - time.time()) < 60 and result == "signal"
    assert len(hook.said) == 1 and "SIGSEGV" in hook.said[0]


@pytest.mark.parametrize("how", ["killed", "dumped"])
def test_an_engine_for_another_processor_is_called_so(hook: Hook, how: str) -> None:
    hook("stopped", "m", result="signal", ended=(how, "ILL"))
    assert hook.called() == [GIVEN_UP]
    assert len(hook.said) == 1 and "compiled for a newer processor" in hook.said[0]


def test_a_model_that_crashes_often_is_given_up(hook: Hook) -> None:
    for number in range(5):
        assert hook.called() == [], number
        hook("started", "m")
        hook("stopped", "m", result="signal", ended=("killed", "SEGV"))
    assert hook.called() == [GIVEN_UP]
    assert len(hook.crashes()) == 5


def test_crashes_of_long_ago_or_from_before_the_clock_was_set_back_are_forgotten(hook: Hook) -> None:
    (hook.run / "crashes").mkdir(parents=True)
    now = time.time()
    ages = (3000, 601, 599, 30, -900)
    (hook.run / "crashes/m").write_text("".join(f"{now - age:.3f} signal\n" for age in ages))
    hook("started", "m")
    hook("stopped", "m", result="watchdog", ended=("killed", "KILL"))
    assert [line.split()[1] for line in hook.crashes()] == ["signal", "signal", "watchdog"]
    assert hook.called() == []


def test_a_lost_gpu_is_an_alert(hook: Hook) -> None:
    hook("started", "m")
    (hook.instance / "gpu-lost").write_text("CUDA error: unspecified launch failure")
    hook("stopped", "m", result="exit-code")
    assert hook.called() == ["start --no-block llmsvc-alert@gpu-lost.service"]
    assert "CUDA" in (hook.run / "gpu-lost").read_text()
    assert not (hook.instance / "gpu-lost").exists()


def test_directories_in_the_place_of_its_files_do_not_keep_the_hook_from_its_work(hook: Hook) -> None:
    for _ in range(2):
        for name in ("ready", "gpu-lost"):
            (hook.instance / name / "in it").mkdir(parents=True)
        hook("stopped", "m", result="signal", ended=("killed", "SEGV"))
        assert not (hook.instance / "ready").exists() and not (hook.instance / "gpu-lost").exists()
    assert len(hook.crashes()) == 2


def test_a_history_that_cannot_be_written_does_not_keep_a_model_from_running(hook: Hook) -> None:
    hook.good.write_text("a\n")
    (hook.root / "good-models.new").symlink_to("/dev/full")
    hook("started", "m")
    assert (hook.instance / "ready").exists()
    assert hook.good.read_text() == "a\n" and hook.said[0].startswith("<4>m: ready, but not noted")


def test_a_systemd_that_refuses_the_alert_or_the_end_of_retries_changes_nothing_else(hook: Hook) -> None:
    (hook.root / "bin/systemctl").write_text("#!/bin/sh\nexit 4\n")
    hook.retry.mkdir()
    hook("started", "m")
    (hook.instance / "gpu-lost").touch()
    hook("stopped", "m", result="signal", ended=("killed", "SEGV"))
    assert len(hook.crashes()) == 1


def test_when_a_model_was_used_is_noted_as_it_starts_and_as_it_ends(hook: Hook) -> None:
    hook("started", "m")
    os.utime(hook.used / "m", (1, 1))
    hook("stopped", "m", result="success")
    assert (hook.used / "m").stat().st_mtime > 1
    assert (hook.used / "m").stat().st_mode & 0o777 == 0o644
    # one that never got ready was not used
    os.utime(hook.used / "m", (1, 1))
    hook("stopped", "m", result="exit-code")
    assert (hook.used / "m").stat().st_mtime == 1
