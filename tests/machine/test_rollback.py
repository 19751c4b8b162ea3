"""A model that does not start gives the last good one back, and no operator is overruled."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Iterator

import pytest

from tests.machine.conftest import Machine, await_journal

MODELS = "/etc/llmsvc/models.d"
FILES = "/var/lib/llmsvc/models"
FILE = f"{FILES}/SmolLM2-135M-Instruct.Q4_1.gguf"
DROP_IN = "/run/systemd/system/llama-server@bad.service.d"
GO = "/run/llmsvc-go-on"

OTHER = f"sed -i s,{FILE},bad.gguf, bad.env"
CRASH = '[Service]\\nExecStart=\\nExecStart=/bin/sh -c "kill -s SEGV $$$$"\\n'

# What makes the model `bad` from a good one, and a word of the reason
BAD = {
    "truncated file": (f"head -c 100000 {FILE} >{FILES}/bad.gguf; {OTHER}", "truncated"),
    "random bytes": (f"head -c 99999 /dev/urandom >{FILES}/bad.gguf; {OTHER}", "GGUF"),
    "no file": (OTHER, "No such file"),
    "bad value": ("echo N_CTX=lots >>bad.env", "bad.env:"),
    "unknown chat format": ("echo CHAT_FORMAT=nosuch >>bad.env", "CHAT_FORMAT"),
    "context too large": ("echo N_CTX=16000000 >>bad.env", "memory"),
    "crash while loading": (
        f"mkdir -p {DROP_IN}; printf '{CRASH}' >{DROP_IN}/crash.conf", "SIGSEGV"
    ),
}  # fmt: skip


@contextlib.contextmanager
def model(machine: Machine, name: str, change: str = ":") -> Iterator[None]:
    """The model NAME, a copy of smollm2 that a script changed."""
    machine.shell(f"cd {MODELS}; cp smollm2.env {name}.env; {change}; systemctl daemon-reload")
    try:
        yield
    finally:
        machine.shell(f"rm -rf {MODELS}/{name}.env {FILES}/{name}.gguf {DROP_IN}; systemctl daemon-reload")


@pytest.fixture(autouse=True)
def smollm2_afterwards(machine):
    history = machine.out("cat", "/var/lib/llmsvc/good-models")
    yield
    machine.shell("systemctl start llama-server@smollm2; systemctl reset-failed")
    machine.exec("tee", "/var/lib/llmsvc/good-models", stdin=history + "\n")


def start(machine: Machine, name: str) -> bool:
    return machine.exec("systemctl", "start", f"llama-server@{name}", check=False).returncode == 0


def own_errors(machine: Machine, name: str, since: float) -> list[str]:
    """What the unit's own processes said with priority err."""
    match = f"_SYSTEMD_UNIT=llama-server@{name}.service"
    return [entry["MESSAGE"] for entry in machine.journal(f"--since=@{since:.3f}", "-p", "3", match)]


def done_last(machine: Machine) -> dict[str, object]:
    return json.loads(machine.out("cat", "/run/llmsvc/rollback.json"))  # type: ignore[no-any-return]


# test_zero_loss has the others, under load
SAMPLE = ("no file", "crash while loading")


@pytest.mark.parametrize(
    "kind", [kind if kind in SAMPLE else pytest.param(kind, marks=pytest.mark.long) for kind in BAD]
)
def test_a_model_that_cannot_start_gives_the_old_one_back(machine, kind, measured):
    script, said = BAD[kind]
    since = time.time()
    with model(machine, "bad", script):
        assert not start(machine, "bad")
        failed = time.monotonic()
        machine.await_states(["llama-server@smollm2", "llama-server@bad"], ["active", "failed"])
        measured(f"{machine.suite}: the old model is back after: {kind}", time.monotonic() - failed)
        (line,) = own_errors(machine, "bad", since)
        assert line.startswith("bad: ") and said in line and "\n" not in line
        last = done_last(machine)
        assert (last["failed"], last["to"], last["retry_at"]) == ("bad", "smollm2", None)
        assert said in str(last["reason"])
        alert = await_journal(machine, since, "LLM_ALERT=rollback")
        assert [(entry["PRIORITY"], said in entry["MESSAGE"]) for entry in alert] == [("2", True)]


def test_a_mount_that_fails_gives_the_old_one_back(machine):
    unit = "/run/systemd/system/run-nosuch.mount"
    machine.exec("tee", unit, stdin="[Mount]\nWhat=/dev/nosuch\nWhere=/run/nosuch\nType=ext4\n")
    since = time.time()
    try:
        with model(machine, "bad", f"sed -i s,{FILE},/run/nosuch/x.gguf, bad.env"):
            assert not start(machine, "bad")
            machine.await_states(["llama-server@smollm2"], ["active"])
            machine.await_states(["llama-server-rollback@bad"], ["inactive"])
            told = machine.journal(f"--since=@{since:.3f}", "-u", "llama-server@bad", "-p", "3")
            assert any("run-nosuch.mount" in entry["MESSAGE"] for entry in told)
    finally:
        machine.shell(f"rm {unit}; systemctl daemon-reload")


def test_a_file_that_went_away_unseen_gives_the_old_model_back_and_one_that_came_unseen_is_refused(machine):
    machine.exec(
        "systemctl", "stop", "llmsvc-models.path", "llmsvc-models.service", "llmsvc-models-reload.service"
    )
    try:
        with model(machine, "bad"):
            machine.exec("rm", f"{MODELS}/bad.env")
            since = time.time()
            assert not start(machine, "bad")
            machine.await_states(["llama-server@smollm2"], ["active"])
            assert "bad.env" in own_errors(machine, "bad", since)[-1]
            process = machine.out("systemctl", "show", "-P", "MainPID", "llama-server@smollm2")
            machine.exec("systemctl", "daemon-reload")
            machine.shell(f"cp {MODELS}/smollm2.env {MODELS}/bad.env")
            since = time.time()
            assert not start(machine, "bad")
            assert own_errors(machine, "bad", since) == []
            assert machine.states("llama-server@smollm2") == ["active"]
            assert machine.out("systemctl", "show", "-P", "MainPID", "llama-server@smollm2") == process
    finally:
        machine.exec("systemctl", "start", "llmsvc-models.path")


@pytest.fixture
def slow_rollback(machine):
    """The unit that goes back to another model is at work after it has decided, until GO is there."""
    drop_in = "/run/systemd/system/llama-server-rollback@.service.d"
    machine.shell(
        f"mkdir -p {drop_in}; printf '[Service]\\nExecStopPost=/bin/sh -c \"until [ -e {GO} ]; do sleep 0.1; "
        f"done\"\\n' >{drop_in}/slow.conf; systemctl daemon-reload"
    )
    yield
    machine.shell(f"rm -rf {drop_in} {GO}; systemctl daemon-reload")


def test_a_model_that_fails_again_while_its_rollback_is_at_work_gives_the_old_one_back(
    machine, slow_rollback
):
    units = ["llama-server@smollm2", "llama-server-rollback@bad"]
    with model(machine, "bad", BAD["crash while loading"][0]):
        assert not start(machine, "bad")
        # its decision is made
        machine.await_states(units, ["activating", "deactivating"])
        assert not start(machine, "bad")
        assert machine.states(*units) == ["inactive", "deactivating"]
        machine.exec("touch", GO)
        machine.await_states(["llama-server@smollm2", "llama-server@bad"], ["active", "failed"])
        machine.await_states(units, ["active", "inactive"])


def test_many_failed_starts_in_a_row_are_all_alike_and_a_mended_model_starts_at_once(machine):
    with model(machine, "bad", BAD["crash while loading"][0]):
        for number in range(7):
            since = time.time()
            assert not start(machine, "bad")
            assert len(own_errors(machine, "bad", since)) == 1, number
        machine.await_states(["llama-server@smollm2", "llama-server@bad"], ["active", "failed"])
        machine.shell(f"rm -r {DROP_IN}; systemctl daemon-reload")
        assert start(machine, "bad")
        assert machine.states("llama-server@smollm2", "llama-server@bad") == ["inactive", "active"]
        machine.start("smollm2")


def test_going_back_tries_each_good_model_once_until_one_is_ready(machine):
    names = ("gone-a", "gone-b", "gone-c")
    since = time.time()
    machine.shell(
        f"for n in {' '.join(names)}; do echo MODEL=$n.gguf >{MODELS}/$n.env; done; systemctl daemon-reload; "
        "printf '%s\\n' gone-a gone-b removed smollm2 >/var/lib/llmsvc/good-models"
    )
    try:
        assert not start(machine, "gone-c")
        machine.await_states(["llama-server@smollm2"], ["active"])
        for name in names:
            (line,) = own_errors(machine, name, since)
            assert "No such file" in line
    finally:
        machine.shell(f"rm {MODELS}/gone-*.env; systemctl daemon-reload")


def test_if_none_starts_the_default_is_tried_again_until_it_does_or_an_operator_stops_it(machine, long):
    machine.shell(f"mkdir -p /root/away; mv {FILES}/*.gguf /root/away")
    units = ["llama-server@smollm2", "llama-server@gemma3", "llmsvc-retry"]
    try:
        since = time.time()
        assert not start(machine, "gemma3")
        machine.await_states(units, ["failed", "failed", "active"])
        last = done_last(machine)
        assert (last["to"], last["delay"]) == ("smollm2", 10)
        assert "smollm2" in machine.out("systemctl", "show", "-P", "StatusText", "llmsvc-retry")
        machine.exec("systemctl", "stop", "llama-server@gemma3")
        machine.await_states(units, ["failed", "failed", "inactive"])
        assert done_last(machine)["retry_at"] is None
        await_journal(machine, since, "LLM_ALERT=no-model", "-p", "2")
        if long:
            assert not start(machine, "gemma3")
            machine.await_states(units, ["failed", "failed", "active"])
    finally:
        machine.shell(f"mv /root/away/* {FILES}")
    if long:
        machine.await_states(units, ["active", "failed", "inactive"])


def test_an_operators_stop_that_ends_badly_is_no_failure(machine):
    drop_in = "/run/systemd/system/llama-server@gemma3.service.d"
    machine.shell(
        f"mkdir -p {drop_in}; "
        f"printf '[Service]\\nTimeoutStopSec=1\\nKillSignal=SIGCONT\\n' >{drop_in}/99.conf; "
        "systemctl daemon-reload"
    )
    units = ["llama-server@smollm2", "llama-server@gemma3"]
    since = time.time()
    try:
        machine.start("gemma3")
        machine.exec("systemctl", "stop", "llama-server@gemma3")
        assert machine.out("systemctl", "show", "-P", "Result", "llama-server@gemma3") == "timeout"
        (said,) = await_journal(machine, since, "-t", "llmsvc-rollback")
        assert "did not end cleanly" in said["MESSAGE"]
        assert machine.states(*units) == ["inactive", "failed"]
    finally:
        machine.shell(f"rm -r {drop_in}; systemctl daemon-reload")


def test_a_crashed_model_is_started_again_until_it_crashes_too_often(machine):
    kill = "systemctl kill -s KILL --kill-who=main llama-server@gemma3"
    machine.start("gemma3")
    machine.exec(*kill.split())
    machine.await_states(["llama-server@gemma3"], ["activating"])
    machine.await_states(["llama-server@gemma3"], ["active"])
    crashes = machine.out("cat", "/run/llmsvc/crashes/gemma3").splitlines()
    assert [line.split()[1] for line in crashes] == ["signal"]
    assert abs(float(crashes[0].split()[0]) - time.time()) < 60
    machine.shell(
        "for n in 1 2 3; do cat /run/llmsvc/crashes/gemma3 | head -1 >>/run/llmsvc/crashes/gemma3; done"
    )
    machine.exec(*kill.split())
    machine.await_states(["llama-server@smollm2", "llama-server@gemma3"], ["active", "failed"])
    machine.exec("rm", "/run/llmsvc/crashes/gemma3")


def test_a_default_that_fails_at_boot_gives_another_model_back(machine):
    machine.start("gemma3")
    machine.shell(f"mv {FILE} /root; echo gemma3 >/var/lib/llmsvc/good-models")
    try:
        machine.reboot()
        machine.await_states(["llama-server@smollm2", "llama-server@gemma3"], ["failed", "active"])
    finally:
        machine.shell(f"mv /root/{FILE.rpartition('/')[2]} {FILES}")
