"""Requests that switch models and wake an idle one, from the SDK to the ledger; backends are mocks."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import openai
import pytest

from tests.postgres.proxy.conftest import Stack, wait_for
from tests.postgres.proxy.manager import processes

CHAT = [{"role": "user", "content": "hi"}]


def ask(client: openai.OpenAI, model: str, **more: object) -> str:
    return client.chat.completions.create(model=model, messages=CHAT, **more).model


def may(stack: Stack, user: str) -> str:
    """A new user that may switch; its key."""
    key = stack.add_key(user)
    stack.sql("UPDATE llama_users SET may_switch = true WHERE username = %s", user)
    http = stack.http(key)
    stack.exits.enter_context(http)
    wait_for(lambda: len(http.get("/v1/models").json()["data"]) > 2)
    return key


@pytest.fixture
def stack(make_stack) -> Iterator[Stack]:
    """`one` runs; `two` and `broken` are installed too."""
    stack = make_stack(LLAMA_PROXY_AUTOSWITCH=1, LLAMA_PROXY_SWITCH_SECONDS=1, LLAMA_PROXY_RATE_LIMIT=1000)
    models = stack.root / "models.d"
    models.mkdir()
    for name in ("one", "two", "broken"):
        (models / f"{name}.env").write_text(f"MODEL={name}.gguf\n")
    stack.start_backend("one")
    stack.start_proxy(MODELS_D=str(models))
    stack.wait_served("one")
    yield stack
    # those that the proxy started outlive it
    for name in ("one", "two"):
        for pid in processes(stack.root / "run", name):
            os.kill(pid, signal.SIGKILL)


def test_users_who_want_different_models_are_all_answered(stack: Stack) -> None:
    keys = {"one": may(stack, "alice"), "two": may(stack, "bob")}
    anybody = stack.client(stack.add_key("carol"))
    answers: list[tuple[str, str]] = []

    def loop(model: str) -> None:
        client = stack.client(keys[model])
        for number in range(6):
            stream = number % 2 == 0
            if stream:
                chunks = client.chat.completions.create(model=model, messages=CHAT, stream=True)
                answers.append((model, {chunk.model for chunk in chunks}.pop()))
            else:
                answers.append((model, ask(client, f"{model}.gguf")))

    begin = time.monotonic()
    threads = [threading.Thread(target=loop, args=(model,)) for model in keys for _ in range(2)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        assert ask(anybody, "current") in ("one", "two")
        time.sleep(0.1)
    elapsed = time.monotonic() - begin
    assert len(answers) == 24
    assert all(wanted == got for wanted, got in answers)
    rows = stack.rows("alice", 12) + stack.rows("bob", 12)
    assert {(row["username"], row["model"], row["state"]) for row in rows} == {
        ("alice", "one", "ok"),
        ("bob", "two", "ok"),
    }
    assert 1 <= stack.log.count("'s request for ") <= elapsed + 1


def test_a_key_without_the_right_is_404_and_the_lists_say_so(stack: Stack) -> None:
    allowed, other = stack.client(may(stack, "alice")), stack.client(stack.add_key("bob"))
    assert {model.id for model in allowed.models.list()} == {"one", "current", "two", "broken"}
    assert {model.id for model in other.models.list()} == {"one", "current"}
    assert allowed.models.retrieve("two").created > 0
    for model in ("two", "two.gguf", "nosuch"):
        with pytest.raises(openai.NotFoundError, match="is not loaded"):
            ask(other, model)
    with pytest.raises(openai.NotFoundError):
        ask(allowed, "nosuch")
    assert "request for" not in stack.log
    assert ask(allowed, "two") == "two"
    assert ask(other, "two") == "two"


def test_a_model_that_fails_is_503_without_its_path_and_the_old_one_serves_on(stack: Stack) -> None:
    alice = stack.client(may(stack, "alice"))
    for _ in range(2):
        with pytest.raises(openai.InternalServerError) as caught:
            ask(alice, "broken")
        assert caught.value.status_code == 503
        assert caught.value.code == "model_failed"
        assert "broken did not start: broken.gguf: is truncated" in caught.value.message
        assert 0 < int(caught.value.response.headers["retry-after"]) <= 60
        assert str(stack.root) not in caught.value.message
    assert stack.log.count("'s request for ") == 1
    assert ask(alice, "one") == "one"
    assert {row["state"] for row in stack.rows("alice", 3)} == {"error", "ok"}


def test_a_client_that_leaves_before_the_switch_causes_none(stack: Stack, tmp_path: Path) -> None:
    alice, bob = stack.client(may(stack, "alice")), stack.client(stack.add_key("bob"))
    time.sleep(1)
    mock = {"until": str(tmp_path / "go on")}
    busy = threading.Thread(target=ask, args=(bob, "one"), kwargs={"extra_body": {"mock": mock}})
    busy.start()
    wait_for(lambda: stack.mock("one")["running"])
    with pytest.raises(openai.APITimeoutError):
        ask(alice.with_options(timeout=2), "two")
    assert stack.rows("alice", 1)[0]["state"] == "client_gone"
    (tmp_path / "go on").touch()
    busy.join()
    assert ask(alice, "one") == "one"
    assert "request for" not in stack.log


def test_an_idle_model_is_unloaded_and_a_restarted_proxy_starts_it_for_the_next_request(
    stack: Stack,
) -> None:
    stack.stop_proxy()
    stack.settings["LLAMA_IDLE_UNLOAD_SECONDS"] = "1"
    models = str(stack.root / "models.d")
    stack.start_proxy(MODELS_D=models)
    stack.wait_notified("one is stopped until the next request")
    assert not (stack.root / "run" / "one" / "ready").exists()
    bob = stack.client(stack.add_key("bob"))
    with stack.http(stack.add_key()) as http:
        assert http.get("/ready").json() == {"ready": True}
    assert {model.id for model in bob.models.list()} == {"one", "current"}
    with pytest.raises(openai.NotFoundError):
        ask(bob, "two")
    stack.stop_proxy()
    stack.start_proxy(MODELS_D=models)
    assert [ask(bob, model) for model in ("current", "one")] == ["one", "one"]
    assert "bob's request started one" in stack.log
