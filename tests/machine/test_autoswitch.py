"""Requests that name another model switch to it, if they may; a model that nobody uses is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.machine.conftest import Machine
from tests.machine.test_switching import never_two

STAY = 2
UNITS = ["llama-server@smollm2", "llama-server@gemma3"]
_numbers = itertools.count()


def body(model: str, tokens: int = 4, **more: Any) -> dict[str, Any]:
    return {
        "model": model,
        "max_tokens": tokens,
        "messages": [{"role": "user", "content": "Tell me about the sea."}],
        **more,
    }


@contextlib.contextmanager
def configured(machine: Machine, **settings: int) -> Iterator[None]:
    """The proxy runs with these settings within; smollm2 runs before and afterwards."""
    lines = "".join(f"{key}={value}\n" for key, value in settings.items())
    machine.exec("cp", "/etc/llmsvc/config.env", "/root/config.env.kept")
    machine.exec("tee", "-a", "/etc/llmsvc/config.env", stdin=lines)
    machine.exec("systemctl", "restart", "auth-proxy")
    try:
        yield
    finally:
        machine.shell("mv /root/config.env.kept /etc/llmsvc/config.env; systemctl restart auth-proxy")
        machine.shell("systemctl reset-failed; systemctl start llama-server@smollm2")


@pytest.fixture(scope="module")
def configured_autoswitch(machine: Machine) -> Iterator[None]:
    with configured(machine, LLAMA_PROXY_AUTOSWITCH=1, LLAMA_PROXY_SWITCH_SECONDS=STAY):
        yield


@pytest.fixture
def autoswitch(machine: Machine, configured_autoswitch: None) -> None:
    """Requests may switch, and smollm2 runs and may be replaced at once."""
    machine.start("smollm2")
    time.sleep(STAY)


@pytest.fixture
def user(machine: Machine) -> Any:
    """user(NAME, OPTION...): a new user without a rate limit that matters; returns its full name and key."""

    def add(name: str, *options: str) -> tuple[str, str]:
        name = f"{name}-{next(_numbers)}-{machine.suite}"
        return name, machine.add_user(name, "--rate-limit", "10000", *options)

    return add


def switches(machine: Machine, since: float) -> list[dict[str, Any]]:
    """The entries about switches that requests asked for."""
    entries = machine.journal("-u", "auth-proxy", f"--since=@{since:.6f}")
    return [e for e in entries if "LLM_REPLACED_MODEL" in e and int(e["__REALTIME_TIMESTAMP"]) >= since * 1e6]


def longest_load(machine: Machine, since: float) -> float:
    """Seconds from the decision to switch until the model was ready, at most."""
    seconds, asked = [], 0
    for entry in machine.journal("-u", "auth-proxy", f"--since=@{since:.6f}"):
        if "LLM_REPLACED_MODEL" in entry:
            asked = int(entry["__REALTIME_TIMESTAMP"])
        elif asked and " is ready: " in entry["MESSAGE"]:
            seconds.append((int(entry["__REALTIME_TIMESTAMP"]) - asked) / 1e6)
    return max(seconds)


async def ask_all(machine: Machine, requests: list[tuple[str, dict[str, Any]]]) -> list[httpx.Response]:
    """All at once, each with its key."""
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(
        base_url=machine.base_url, trust_env=False, verify=False, timeout=290, limits=limits
    ) as client:
        return await asyncio.gather(
            *(
                client.post("/v1/chat/completions", json=what, headers={"authorization": f"Bearer {key}"})
                for key, what in requests
            )
        )


# before the others: they share one configuration of their own
def test_a_model_that_nobody_uses_is_stopped_and_the_next_request_starts_it(machine, user, measured):
    _, key = user("rare")
    _, may = user("rare-may", "--may-switch")
    settings = {"LLAMA_PROXY_AUTOSWITCH": 1, "LLAMA_PROXY_HOLD_SECONDS": 5, "LLAMA_IDLE_UNLOAD_SECONDS": 2}
    with configured(machine, **settings):
        machine.await_states(UNITS, ["inactive", "inactive"], 20)
        with machine.network(), machine.openai(key) as client:
            assert httpx.get(
                f"{machine.base_url}/ready", trust_env=False, verify=False, timeout=60
            ).json() == {"ready": True}
            assert {model.id for model in client.models.list()} == {"smollm2", "current"}
            assert client.models.retrieve("current").model_dump()["context_length"]
        machine.exec("systemctl", "restart", "auth-proxy")
        begin = time.monotonic()
        answer = machine.post("/v1/chat/completions", body("smollm2"), key)
        measured(f"{machine.suite}: request to an unloaded model", time.monotonic() - begin)
        assert (answer.status_code, answer.json()["model"]) == (200, "smollm2")
        machine.await_states(UNITS, ["inactive", "inactive"], 20)
        assert machine.post("/v1/chat/completions", body("gemma3"), key).status_code == 404
        assert machine.states(*UNITS) == ["inactive", "inactive"]
        answer = machine.post("/v1/chat/completions", body("gemma3"), may)
        assert answer.json()["model"] == "gemma3"
        machine.await_states(UNITS, ["inactive", "inactive"], 20)
        # an operator's own start ends it: the stop that follows is respected
        machine.start("smollm2")
        # the proxy looks ten times a second, or for a request, who is ready
        assert machine.post("/v1/chat/completions", body("current"), key).status_code == 200
        machine.exec("systemctl", "stop", "llama-server@smollm2")
        with machine.network():
            assert (
                httpx.get(f"{machine.base_url}/ready", trust_env=False, verify=False, timeout=60).status_code
                == 503
            )
        answer = machine.post("/v1/chat/completions", body("gemma3"), may)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "model_not_ready")
        assert machine.states(*UNITS) == ["inactive", "inactive"]


def test_two_users_who_want_different_models_are_all_answered_within_the_bounds(
    machine, autoswitch, user, long, measured
):
    alice, alices = user("alice", "--may-switch")
    bob, bobs = user("bob", "--may-switch")
    count = 50 if long else 6
    requests = [(alices, body("gemma3")), (bobs, body("smollm2"))] * count
    begin = time.time()
    with never_two(machine), machine.network():
        answers = asyncio.run(ask_all(machine, requests))
    elapsed = time.time() - begin
    assert [answer.status_code for answer in answers] == [200] * len(answers), answers[0].text
    wanted = [what["model"] for _, what in requests]
    assert [answer.json()["model"] for answer in answers] == wanted

    done = switches(machine, begin)
    assert 1 <= len(done) <= elapsed / STAY + 1
    first = done[0]
    assert (first["LLM_USER"], first["LLM_MODEL"], first["LLM_REPLACED_MODEL"]) == (
        alice,
        "gemma3",
        "smollm2",
    )
    assert first["MESSAGE"].startswith(f"{alice}'s request for gemma3 replaces smollm2")

    query = (
        f"select username, queue_ms, duration_ms from llama_requests where username in ('{alice}', '{bob}')"
    )
    deadline = time.monotonic() + 10
    while len(rows := machine.sql(query)) < len(requests):
        assert time.monotonic() < deadline, "not every request has its row"
        time.sleep(0.2)
    load = longest_load(machine, begin)
    for name in (alice, bob):
        work = [(row["duration_ms"] - row["queue_ms"]) / 1000 for row in rows if row["username"] == name]
        wait = max(row["queue_ms"] / 1000 for row in rows if row["username"] == name)
        measured(f"{machine.suite}: longest wait of {count} requests among {len(done)} switches", wait)
        # its first turn, and another one for each further stay that its requests fill
        turns = sum(work) // STAY + 1
        assert wait <= turns * (STAY + 2 * load + max(work)) + sum(work) + 1


def test_a_key_without_the_right_gets_404_and_nothing_is_switched(machine, autoswitch, user):
    _, may = user("may", "--may-switch")
    name, key = user("maynot")
    begin = time.time()
    answer = machine.post("/v1/chat/completions", body("gemma3"), key)
    assert (answer.status_code, answer.json()["error"]["code"]) == (404, "model_not_found")
    assert machine.post("/v1/chat/completions", body("nosuch"), may).status_code == 404
    assert machine.post("/v1/chat/completions", body("current"), key).json()["model"] == "smollm2"
    assert switches(machine, begin) == []
    assert machine.states(*UNITS) == ["active", "inactive"]
    with machine.network():
        for one, listed in ((may, {"smollm2", "current", "gemma3"}), (key, {"smollm2", "current"})):
            with machine.openai(one) as client:
                assert {model.id for model in client.models.list()} == listed

    machine.exec("llmsvc", "user", "set", name, "--may-switch")
    with machine.network(), machine.openai(key) as client:
        deadline = time.monotonic() + 20
        while "gemma3" not in {model.id for model in client.models.list()}:
            assert time.monotonic() < deadline, "the right has no effect"
    assert machine.post("/v1/chat/completions", body("gemma3"), key).json()["model"] == "gemma3"
    assert machine.states(*UNITS) == ["inactive", "active"]


def test_a_model_that_does_not_start_is_503_and_the_others_are_answered(machine, autoswitch, user):
    _, key = user("optimist", "--may-switch")
    machine.shell("echo MODEL=nosuch.gguf >/etc/llmsvc/models.d/broken.env")
    try:
        with machine.network():
            requests = [(key, body(model)) for model in ("broken", "smollm2", "current", "broken")]
            answers = asyncio.run(ask_all(machine, requests))
        assert [answer.status_code for answer in answers] == [503, 200, 200, 503]
        error = answers[0].json()["error"]
        assert error["code"] == "model_failed"
        assert "broken did not start: " in error["message"] and "nosuch.gguf" in error["message"]
        assert "/" not in error["message"]
        begin = time.time()
        again = machine.post("/v1/chat/completions", body("broken"), key)
        assert (again.status_code, again.json()["error"]["code"]) == (503, "model_failed")
        assert int(again.headers["retry-after"]) <= 60
        # it was not tried again
        assert switches(machine, begin) == []
        machine.await_states(UNITS, ["active", "inactive"])
    finally:
        machine.shell("rm /etc/llmsvc/models.d/broken.env; systemctl daemon-reload; systemctl reset-failed")


def test_a_restart_of_the_proxy_in_the_middle_of_a_switch_loses_nothing(machine, autoswitch, user):
    _, key = user("patient", "--may-switch")
    with machine.network():

        async def work() -> httpx.Response:
            asked = asyncio.create_task(ask_all(machine, [(key, body("gemma3"))]))
            while not switches(machine, begin):
                assert time.time() < begin + 30, "nothing was switched"
                await asyncio.sleep(0.05)
            await asyncio.to_thread(machine.exec, "systemctl", "restart", "auth-proxy")
            return (await asked)[0]

        begin = time.time()
        answer = asyncio.run(work())
    assert (answer.status_code, answer.json()["model"]) == (200, "gemma3")
    assert machine.states(*UNITS, "auth-proxy") == ["inactive", "active", "active"]
