"""Switches, restarts and failed starts under load: no request fails, is cut, or is counted wrongly."""

from __future__ import annotations

import threading
import time

import pytest

from tests.machine.conftest import Machine
from tests.machine.load import Load
from tests.machine.test_switching import never_two


@pytest.fixture(scope="module")
def keys(machine):
    """Four users without a limit that matters."""
    return [machine.add_user(f"load{n}", "--rate-limit", "1000000") for n in range(4)]


@pytest.fixture(autouse=True)
def smollm2_afterwards(machine):
    yield
    machine.exec("systemctl", "reset-failed")
    machine.start("smollm2")


def rows(machine: Machine, since: float) -> dict[str, dict[str, object]]:
    """The ledger's rows of the load since then, by request id."""
    query = (
        "select request_id, state, status_code, model, completion_tokens from llama_requests "
        f"where username like 'load%' and created_at >= to_timestamp({since})"
    )
    found = machine.sql(query)
    by_id = {str(row["request_id"]): row for row in found}
    assert len(by_id) == len(found)
    return by_id


def await_rows(machine: Machine, since: float, count: int) -> dict[str, dict[str, object]]:
    deadline = time.monotonic() + 30
    while len(found := rows(machine, since)) < count and time.monotonic() < deadline:
        time.sleep(0.2)
    return found


def silence(load: Load, begin: float, end: float) -> float:
    """The longest time without an answer's end in a span, in seconds."""
    ends = sorted(a.end for a in load.answers if begin <= a.end <= end)
    return max((b - a for a, b in zip([begin, *ends], [*ends, end], strict=True)), default=end - begin)


def check_counted(machine: Machine, load: Load, since: float) -> None:
    """Nothing failed, and the ledger has exactly the answers that the clients got."""
    assert load.problems() == []
    found = await_rows(machine, since, len(load.answers))
    assert set(found) == {answer.request_id for answer in load.answers}
    for answer in load.answers:
        row = found[answer.request_id]
        assert (row["state"], row["status_code"]) == ("ok", 200)
        assert (row["model"], row["completion_tokens"]) == (answer.model, answer.tokens)


def test_plain_switches_and_restarts_of_the_proxy_under_load_lose_nothing(machine, keys, long, measured):
    switches, restarts = (30, 10) if long else (6, 2)
    since = time.time()
    load = Load(machine, keys)
    times, done = [], threading.Event()

    def restart_the_proxy() -> None:
        for _ in range(restarts):
            if done.wait(2.5):
                return
            machine.exec("systemctl", "restart", "auth-proxy")

    with never_two(machine), load.running():
        other = threading.Thread(target=restart_the_proxy)
        other.start()
        for number in range(switches):
            begin = time.time()
            machine.start(("gemma3", "smollm2")[number % 2])
            times.append(time.time() - begin)
            load.await_more(4)
        done.set()
        other.join()
    check_counted(machine, load, since)
    assert {answer.model for answer in load.answers} == {"smollm2", "gemma3"}
    measured(
        f"{machine.suite}: systemctl start of another model under load, median",
        sorted(times)[len(times) // 2],
    )
    measured(f"{machine.suite}: longest time without an answer", silence(load, since, load.answers[-1].end))
    measured(f"{machine.suite}: answers in that time: {len(load.answers)} in", time.time() - since)


BROKEN = {
    "truncated": "head -c 100000 $good >$dir/broken.gguf; echo MODEL=broken.gguf >broken.env",
    "random bytes": "head -c 1000000 /dev/urandom >$dir/broken.gguf; echo MODEL=broken.gguf >broken.env",
    "unknown chat format": "echo CHAT_FORMAT=nosuch >>broken.env",
    "context too large": "echo N_CTX=100000000 >>broken.env",
    "crash while loading": "mkdir -p /run/systemd/system/llama-server@broken.service.d; "
    "printf '[Service]\\nExecStart=\\nExecStart=/bin/sh -c \"kill -SEGV $$$$\"\\n' "
    ">/run/systemd/system/llama-server@broken.service.d/crash.conf",
    "missing .env": "systemctl daemon-reload; rm broken.env",
}


@pytest.mark.split
@pytest.mark.parametrize("kind", BROKEN)
def test_a_model_that_does_not_start_costs_no_request(machine, keys, kind, measured):
    machine.shell(
        "systemctl stop llmsvc-models.path llmsvc-models.service llmsvc-models-reload.service; "
        "cd /etc/llmsvc/models.d; cp smollm2.env broken.env; "
        'good=$(sed -n "s/^MODEL=//p" smollm2.env) dir=/var/lib/llmsvc/models; '
        f"{BROKEN[kind]}; [ ! -e broken.env ] || systemctl daemon-reload"
    )
    since = time.time()
    load = Load(machine, keys, clients=4)
    try:
        with load.running():
            load.await_more(4)
            begin = time.time()
            failed = machine.exec("systemctl", "start", "llama-server@broken", check=False)
            assert failed.returncode != 0
            machine.await_states(["llama-server@smollm2", "llama-server@broken"], ["active", "failed"])
            load.await_more(4)
        check_counted(machine, load, since)
        errors = [
            entry["MESSAGE"]
            for entry in machine.journal(f"--since=@{begin:.6f}", "-u", "llama-server@broken", "-p", "3")
            # of the model or of its hook; what systemd knows of a process may be missing once that has ended
            if entry.get("SYSLOG_IDENTIFIER") == "llama-server"
        ]
        assert len(errors) == 1, errors
        measured(
            f"{machine.suite}: {kind}, longest time without an answer", silence(load, begin, time.time())
        )
    finally:
        machine.shell(
            "rm -rf /etc/llmsvc/models.d/broken.env /var/lib/llmsvc/models/broken.gguf "
            "/run/systemd/system/llama-server@broken.service.d; systemctl daemon-reload; "
            "systemctl start llmsvc-models.path"
        )
