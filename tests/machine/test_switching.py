"""`systemctl start llama-server@NAME` switches: one model at a time, answering when the command returns."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator

import pytest

from tests.machine.conftest import Machine

# Says at its end how many backends it saw at once, at most
WATCH = r"""
import glob, select, sys
most = 0
while not select.select([sys.stdin], [], [], 0.005)[0]:
    now = 0
    for name in glob.glob("/proc/[0-9]*/cmdline"):
        try:
            arguments = open(name, "rb").read().split(b"\0")
        except OSError:
            continue
        now += b"backend" in arguments and any(word.endswith(b"/llmsvc") for word in arguments)
    most = max(most, now)
print(most)
"""


@contextlib.contextmanager
def never_two(machine: Machine) -> Iterator[None]:
    with subprocess.Popen(
        machine.argv("python3", "-c", WATCH),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as watch:
        yield
        most, _ = watch.communicate("", timeout=30)
    assert most.strip() == "1"


@pytest.fixture(autouse=True)
def smollm2_afterwards(machine):
    yield
    machine.exec("systemctl", "reset-failed")
    machine.start("smollm2")


def model_that_answers(machine: Machine) -> str:
    body = {"max_tokens": 1, "messages": [{"role": "user", "content": "hi"}]}
    answer = machine.post("/v1/chat/completions", body, machine.key())
    assert answer.status_code == 200, answer.text
    return answer.json()["model"]


def test_start_returns_when_the_other_model_answers(machine):
    with never_two(machine):
        machine.start("gemma3")
        assert machine.states("llama-server@smollm2", "llama-server@gemma3") == ["inactive", "active"]
        assert model_that_answers(machine) == "gemma3"


def test_a_model_can_be_restarted(machine):
    with never_two(machine):
        machine.exec("systemctl", "restart", "llama-server@smollm2")
        assert model_that_answers(machine) == "smollm2"


def test_many_switches_in_a_row(machine, long):
    models = ("gemma3", "smollm2")
    with never_two(machine):
        for number in range(20 if long else 6):
            model, other = models[number % 2], models[1 - number % 2]
            machine.start(model)
            assert machine.states(f"llama-server@{model}", f"llama-server@{other}") == ["active", "inactive"]
    assert model_that_answers(machine) == "smollm2"
    assert machine.states("auth-proxy") == ["active"]


def test_the_default_model_and_the_proxy_are_back_after_a_reboot(machine):
    machine.start("gemma3")
    machine.reboot()
    units = ["llama-server@smollm2", "llama-server@gemma3", "auth-proxy"]
    machine.await_states(units, ["active", "inactive", "active"])
    assert model_that_answers(machine) == "smollm2"
