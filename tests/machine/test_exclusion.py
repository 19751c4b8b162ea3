"""Never two models, never none: whatever is started, deleted, added or reloaded, and when."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator

import httpx
import pytest

from tests.machine.conftest import Machine
from tests.machine.test_switching import model_that_answers, never_two

MODELS = "/etc/llmsvc/models.d"
UNTIL = "for n in $(seq 600); do if {}; then exit; fi; sleep 0.1; done; exit 1"
"""A minute, on a machine that has much else to do."""
SMOLLM2, GEMMA3, THIRD = (f"llama-server@{name}" for name in ("smollm2", "gemma3", "third"))


@pytest.fixture(scope="module")
def third(machine):
    """A third model, `third`."""
    machine.shell(f"cp {MODELS}/smollm2.env {MODELS}/third.env; systemctl daemon-reload")
    yield
    machine.shell(
        f"rm {MODELS}/third.env; sed -i /third/d /var/lib/llmsvc/good-models; systemctl daemon-reload"
    )


@pytest.fixture(autouse=True)
def smollm2_afterwards(machine):
    yield
    machine.shell("systemctl start llama-server@smollm2; systemctl reset-failed")


def start(machine: Machine, *units: str) -> subprocess.Popen[str]:
    """systemctl start in the background."""
    return subprocess.Popen(machine.argv("systemctl", "start", *units), stderr=subprocess.PIPE, text=True)


def result(process: subprocess.Popen[str]) -> int:
    with process:
        process.communicate(timeout=60)
    return process.returncode


def test_a_model_whose_file_is_deleted_while_it_runs_is_still_exclusive(machine):
    with never_two(machine):
        machine.start("gemma3")
        machine.shell(f"mv {MODELS}/gemma3.env /root; systemctl daemon-reload")
        try:
            machine.start("smollm2")
            assert machine.states(SMOLLM2, GEMMA3) == ["active", "inactive"]
        finally:
            machine.shell(f"mv /root/gemma3.env {MODELS}; systemctl daemon-reload")


def test_a_file_that_is_laid_into_models_d_can_be_started_without_a_daemon_reload(machine):
    drop_in = "/run/systemd/generator/llama-server@dropped.service.d/50-llmsvc-exclusive.conf"
    machine.shell(
        f"cp {MODELS}/smollm2.env {MODELS}/dropped.env; {UNTIL.format(f'[ -e {drop_in} ]')}",
    )
    try:
        with never_two(machine):
            machine.start("dropped")
            assert machine.states(SMOLLM2, "llama-server@dropped") == ["inactive", "active"]
            machine.shell(f"echo MODEL=/srv/x.gguf >>{MODELS}/dropped.env")
            machine.shell(UNTIL.format(f"grep -q /srv/x {drop_in}"))
            machine.start("smollm2")
    finally:
        machine.shell(f"sed -i /dropped/d /var/lib/llmsvc/good-models; rm {MODELS}/dropped.env")
        machine.shell(UNTIL.format(f"[ ! -e {drop_in} ]"))


def test_many_files_at_once_are_all_seen_and_cost_few_reloads(machine):
    since = time.time()
    count = "ls /run/systemd/generator | grep -c llama-server@drop- || :"
    machine.shell(f"for n in $(seq 150); do cp {MODELS}/smollm2.env {MODELS}/drop-$n.env; sleep 0.01; done")
    try:
        machine.shell(UNTIL.format(f"[ $({count}) = 150 ]"))
    finally:
        machine.shell(f"rm {MODELS}/drop-*.env")
    machine.shell(UNTIL.format(f"[ $({count}) = 0 ]"))
    assert machine.states("llmsvc-models.path") == ["active"]
    reloads = [
        entry for entry in machine.journal(f"--since=@{since:.3f}", "_PID=1")
        if entry["MESSAGE"] in ("Reloading.", "Reloading...")
    ]  # fmt: skip
    assert len(reloads) < 30


def test_the_last_of_several_quick_starts_wins(machine, third, long):
    for _ in range(5 if long else 1):
        with never_two(machine):
            first = start(machine, GEMMA3)
            machine.await_states([GEMMA3], ["activating"])
            second = start(machine, THIRD)
            assert result(first) != 0
            assert result(second) == 0
            assert machine.states(SMOLLM2, GEMMA3, THIRD) == ["inactive", "inactive", "active"]
            machine.start("smollm2")


def test_of_starts_at_the_same_time_exactly_one_wins(machine, third, long):
    units = (GEMMA3, THIRD)
    for _ in range(10 if long else 1):
        with never_two(machine):
            starts = [start(machine, unit) for unit in units]
            codes = [result(process) for process in starts]
            winner = codes.index(0)
            assert codes[1 - winner] != 0
            assert machine.states(units[winner], units[1 - winner]) == ["active", "inactive"]
            assert machine.states(SMOLLM2) == ["inactive"]
    with never_two(machine):
        machine.exec("systemctl", "start", GEMMA3, SMOLLM2, check=False)
        machine.await_states([SMOLLM2], ["active"])
        assert machine.states(GEMMA3) == ["inactive"]


def test_restart_of_a_model_that_does_not_run_switches(machine):
    with never_two(machine):
        machine.exec("systemctl", "try-restart", GEMMA3)
        assert machine.states(SMOLLM2, GEMMA3) == ["active", "inactive"]
        machine.exec("systemctl", "reload-or-restart", GEMMA3)
        assert machine.states(SMOLLM2, GEMMA3) == ["inactive", "active"]


def test_a_crashed_model_that_waits_for_its_restart_does_not_come_back_after_a_switch(machine):
    machine.exec("systemctl", "kill", "-s", "KILL", "--kill-who=main", SMOLLM2)
    machine.await_states([SMOLLM2], ["activating"])
    with never_two(machine):
        machine.start("gemma3")
        time.sleep(1.2)  # RestartSec=
        assert machine.states(SMOLLM2, GEMMA3) == ["inactive", "active"]


@pytest.mark.parametrize("wanted", ["gemma3", "smollm2"])
def test_going_back_never_gets_in_the_way_of_a_start(machine, wanted):
    """Either may be the one that declares the conflict, and systemd treats them differently."""
    other = {"gemma3": "smollm2", "smollm2": "gemma3"}[wanted]
    machine.start(other)
    offer = f"from llmsvc.systemd import manager; print(manager.offer('{other}'))"
    with never_two(machine):
        operators = start(machine, f"llama-server@{wanted}")
        machine.await_states([f"llama-server@{wanted}"], ["activating"])
        assert machine.out("/opt/llmsvc/venv/bin/python", "-c", offer) == "False"
        assert result(operators) == 0
        assert machine.states(f"llama-server@{wanted}", f"llama-server@{other}") == ["active", "inactive"]


@contextlib.contextmanager
def reloading(machine: Machine) -> Iterator[None]:
    """daemon-reload in a loop."""
    loop = "while :; do systemctl daemon-reload; n=$((n + 1)); if read -t 0.05; then echo $n; exit; fi; done"
    with subprocess.Popen(
        machine.argv("bash", "-c", loop), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            yield
        finally:
            count, _ = process.communicate("\n", timeout=30)
    assert int(count) > 5


def test_daemon_reloads_at_any_moment_do_no_harm(machine, long):
    body = {
        "max_tokens": 30, "stream": True, "messages": [{"role": "user", "content": "Tell a long story."}]
    }  # fmt: skip
    headers = {"authorization": f"Bearer {machine.key()}"}
    with reloading(machine), never_two(machine):
        for number in range(10 if long else 2):
            with (
                machine.network(),
                httpx.Client(base_url=machine.base_url, trust_env=False, verify=False, timeout=60) as client,
                client.stream("POST", "/v1/chat/completions", json=body, headers=headers) as answer,
            ):
                lines = answer.iter_lines()
                assert next(lines).startswith("data:")  # it generates, and is drained now
                machine.start(("gemma3", "smollm2")[number % 2])
                assert [line for line in lines if line][-1] == "data: [DONE]"
        assert model_that_answers(machine) == "smollm2"
    assert machine.out("systemctl", "list-units", "--failed", "--no-legend", "llama-server@*") == ""
