"""Several users of one native engine, through a real proxy: whose turn it is, and who keeps what was read."""

from __future__ import annotations

import concurrent.futures
import contextlib
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.engine.conformance.conftest import listening
from tests.engine.conftest import Backend
from tests.postgres.conftest import cluster
from tests.postgres.proxy.conftest import Stack, run_stack, wait_for

__all__ = ["cluster"]

pytestmark = pytest.mark.engine("native")

STORY = "Once there was a lighthouse at the end of the land. " * 20


@pytest.fixture(scope="module")
def stack(
    cluster: object, models: Path, engine: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Stack]:
    """A proxy before a backend with four slots."""
    root = tmp_path_factory.mktemp("sharing")
    settings = f"MODEL={models}/smollm2.gguf\nN_THREADS=1\nN_CTX=1024\nSLOTS=4\nENGINE={engine}\n"
    with contextlib.ExitStack() as exits:
        backend = exits.enter_context(contextlib.closing(Backend(root, settings, name="smollm2")))
        limits = {"LLAMA_PROXY_RATE_LIMIT": 1000, "LLAMA_PROXY_QUEUE_PER_USER": 100}
        stack = exits.enter_context(run_stack(cluster, **limits))
        (stack.root / "run").symlink_to(root / "run")
        backend.wait_for("READY=1")
        backend.socket.with_name("ready").touch()
        stack.start_proxy()
        stack.wait_served("smollm2")
        exits.enter_context(listening(stack.notify))
        yield stack
        assert backend.output == ""


def test_four_requests_of_one_wait_a_fifth_of_what_forty_of_another_do(stack: Stack) -> None:
    """Counted in turns: how many requests began between the moment when one came and its own turn."""
    many, few, before = (stack.add_key(name) for name in ("many", "few", "before"))
    with stack.http(stack.served_key) as ours, concurrent.futures.ThreadPoolExecutor(48) as pool:

        def ask(key: str, tokens: int = 8) -> int:
            with stack.http(key, timeout=300) as client:
                body = {"messages": [{"role": "user", "content": "Say hello"}], "max_tokens": tokens}
                # no answer ends by itself
                body["logit_bias"] = {"2": -100, "0": -100}
                return client.post("/v1/chat/completions", json=body).status_code

        def wait_for_queue(**numbers: int) -> None:
            wait_for(lambda: numbers.items() <= ours.get("/v1/queue").json().items(), 120)

        # all wait before the first begins
        longest = [pool.submit(ask, before, 900) for _ in range(4)]
        wait_for_queue(running=4)
        sent = [pool.submit(ask, many) for _ in range(40)]
        wait_for_queue(waiting=40)
        sent += [pool.submit(ask, few) for _ in range(4)]
        wait_for_queue(waiting=44)
        for one in ours.get("/v1/queue").json()["data"][:4]:
            ours.post(f"/v1/requests/{one['id']}/cancel")
        assert all(one.result() == 200 for one in sent)
        assert {one.result() for one in longest} == {403}
    rows = [*stack.rows("many", 40), *stack.rows("few", 4)]
    came = {row["request_id"]: row["created_at"].timestamp() for row in rows}
    began = {row["request_id"]: came[row["request_id"]] + row["queue_ms"] / 1000 for row in rows}

    def p95(user: str) -> int:
        mine = [row["request_id"] for row in rows if row["username"] == user]
        waits = sorted(sum(came[one] <= start < began[one] for start in began.values()) for one in mine)
        return waits[math.ceil(len(waits) * 0.95) - 1]

    assert p95("few") <= p95("many") / 5, (p95("few"), p95("many"))


def turn(client: Any, talk: list[dict[str, str]], say: str) -> tuple[int, int]:
    """One turn of a conversation: the tokens of its prompt, and those of them that had been read before."""
    talk.append({"role": "user", "content": say})
    body = {"messages": talk, "max_tokens": 4, "temperature": 0}
    answer = client.post("/v1/chat/completions", json=body).json()
    talk.append({"role": "assistant", "content": answer["choices"][0]["message"]["content"]})
    usage = answer["usage"]
    return usage["prompt_tokens"], usage["prompt_tokens_details"]["cached_tokens"]


@pytest.mark.parametrize("together", [False, True], ids=["one after the other", "at the same time"])
def test_a_conversation_is_not_read_again_after_the_turns_of_others(stack: Stack, together: bool) -> None:
    """All begin with the same system prompt, as in a front end; as many users as slots."""
    with contextlib.ExitStack() as exits:
        clients = [exits.enter_context(stack.http(stack.add_key(), timeout=120)) for _ in range(4)]
        talks = [[{"role": "system", "content": STORY}] for _ in clients]
        meet = threading.Barrier(4, timeout=60)

        def speak(number: int) -> tuple[int, int]:
            if together:
                meet.wait()
            return turn(clients[number], talks[number], f"I am number {number}, say more.")

        pool = exits.enter_context(concurrent.futures.ThreadPoolExecutor(4 if together else 1))
        before = [tokens for tokens, _ in pool.map(speak, range(4))]
        for _ in range(3):
            now = list(pool.map(speak, range(4)))
            for (tokens, cached), earlier in zip(now, before, strict=True):
                # of the last answer its end is read again, as the template may write it in another way
                assert tokens > 250 and cached >= earlier - 8, (now, before)
            before = [tokens for tokens, _ in now]


def test_what_others_left_is_not_told(stack: Stack) -> None:
    """With more users than slots some conversation loses its slot; nobody learns what it was."""
    with contextlib.ExitStack() as exits:
        clients = [exits.enter_context(stack.http(stack.add_key(), timeout=120)) for _ in range(6)]
        for client in clients:
            body = {"messages": [{"role": "user", "content": STORY}], "max_tokens": 1}
            usage = client.post("/v1/chat/completions", json=body).json()["usage"]
            assert usage["prompt_tokens"] > 250
            assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
