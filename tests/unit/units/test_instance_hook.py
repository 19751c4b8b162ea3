"""units/instance-hook: marks an instance ready, keeps the history of good models, and starts the rollback."""

import os
import subprocess
from pathlib import Path

import pytest

from llmsvc import paths


class Hook:
    """The hook with directories of the test's own and a systemctl that notes how it was called."""

    def __init__(self, root: Path) -> None:
        self.instance, self.good, self.calls = root / "run/m", root / "good-models", root / "calls"
        self.failed = root / "failed"
        self.instance.mkdir(parents=True)
        text = paths.data("units", "instance-hook").read_text()
        text = text.replace("/run/llama-server/", f"{root}/run/").replace(
            str(paths.GOOD_MODELS), str(self.good)
        )
        text = text.replace(str(paths.FAILED_MODELS), str(self.failed))
        self.script = root / "hook"
        self.script.write_text(text)
        (root / "bin").mkdir()
        (root / "bin/systemctl").write_text(f'#!/bin/sh\necho "$@" >>{self.calls}\n')
        (root / "bin/systemctl").chmod(0o755)
        self.path = f"{root}/bin:{os.environ['PATH']}"

    def __call__(self, *arguments: str, result: str = "") -> None:
        subprocess.run(
            ["/bin/sh", self.script, *arguments],
            check=True,
            env={"PATH": self.path, "SERVICE_RESULT": result},
        )

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def hook(tmp_path: Path) -> Hook:
    return Hook(tmp_path)


def test_a_ready_model_is_marked_and_heads_the_history(hook: Hook) -> None:
    hook.good.write_text("a\nm\nb\n")
    hook("started", "m")
    assert (hook.instance / "ready").exists()
    assert hook.good.read_text().split() == ["m", "a", "b"]


def test_once_a_model_is_ready_those_that_failed_may_be_tried_again(hook: Hook) -> None:
    hook.failed.write_text("a\n")
    hook("stopped", "a", result="exit-code")
    assert hook.failed.exists()
    hook("started", "m")
    assert not hook.failed.exists()


def test_the_history_is_bounded(hook: Hook) -> None:
    hook.good.write_text("".join(f"m{i}\n" for i in range(50)))
    hook("started", "m")
    assert len(hook.good.read_text().split()) == 20


def test_a_clean_stop_forgets_failures_and_rolls_nothing_back(hook: Hook) -> None:
    hook("started", "m")
    hook("stopped", "m", result="success")
    assert not (hook.instance / "ready").exists()
    assert hook.called() == ["reset-failed llama-server@m.service"]


@pytest.mark.parametrize("result", ["exit-code", "signal", "core-dump", "timeout", "oom-kill"])
def test_any_failure_before_ready_rolls_back_at_once(hook: Hook, result: str) -> None:
    hook("stopped", "m", result=result)
    assert hook.called() == ["start --no-block llama-server-rollback@m.service"]


def test_a_crash_after_ready_leaves_the_restart_to_systemd(hook: Hook) -> None:
    hook("started", "m")
    hook("stopped", "m", result="signal")
    assert hook.called() == []
    assert not (hook.instance / "ready").exists()
