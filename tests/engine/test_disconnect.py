"""When a client goes away, the next one's first token comes within a second of when it would have come.

On a machine that has much else to do, it may be some more; what is left would take a quarter of a minute.
"""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.engine.conftest import Backend

COMPLETIONS = "/v1/completions"
PREFILL = {"prompt": "word " * 3000, "max_tokens": 1}
ENDLESS = {"prompt": "One two three", "max_tokens": 3000, "logit_bias": {"2": -100, "0": -100}}
LATER = 5.0
NEXT = {"prompt": "Once upon a time", "max_tokens": 1, "stream": True, "temperature": 0}


@contextlib.contextmanager
def client(backend: Backend, body: dict[str, Any], name: str) -> Iterator[socket.socket]:
    """A client with its request sent; it goes away at the end of the block."""
    raw = json.dumps(body).encode()
    lines = ("host: x", f"x-request-id: {name}", f"content-length: {len(raw)}")
    head = "\r\n".join([f"POST {COMPLETIONS} HTTP/1.1", *lines, "", ""])
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(str(backend.socket))
        connection.sendall(head.encode() + raw)
        yield connection


def wait(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + 60
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def busy(backend: Backend) -> bool:
    return bool(backend.client.get("/health").json()["busy_since"])


def first_token(backend: Backend) -> tuple[float, str]:
    """Seconds to the first token of the next client, and its text."""
    begun = time.monotonic()
    with backend.client.stream("POST", COMPLETIONS, json=NEXT) as answer:
        lines = answer.iter_lines()
        line = next(lines)
        seconds = time.monotonic() - begun
        assert list(lines)[-2:] == ["data: [DONE]", ""]
    return seconds, json.loads(line[6:])["choices"][0]["text"]


@pytest.fixture
def alone(smollm2: Backend) -> tuple[float, str]:
    """What the next client gets where nobody was before."""
    smollm2.post(COMPLETIONS, {"prompt": "Something else", "max_tokens": 1})
    return first_token(smollm2)


@pytest.mark.parametrize("stream", [False, True], ids=["whole", "stream"])
@pytest.mark.parametrize(("body", "tokens"), [(PREFILL, 3001), (ENDLESS, 3)], ids=["prompt", "answer"])
def test_a_client_that_leaves_frees_the_model_for_the_next_one(
    smollm2: Backend, body: dict[str, Any], tokens: int, stream: bool, alone: tuple[float, str]
) -> None:
    name = f"left-{tokens}-{stream}"
    with client(smollm2, {**body, "stream": stream}, name) as connection:
        wait(lambda: busy(smollm2))
        if body is ENDLESS and stream:
            while b"data: " not in connection.recv(65536):
                pass
        else:
            time.sleep(0.5)
    seconds, text = first_token(smollm2)
    assert seconds <= LATER + alone[0]
    assert text == alone[1]
    cost = smollm2.post(f"/cancel/{name}", {}).json()
    assert cost["prompt_tokens"] == tokens
    assert (cost["completion_tokens"] > 0) == (body is ENDLESS)


@pytest.mark.engine("llama-cpp-python")  # with the other one it would not wait
def test_a_client_that_leaves_while_it_waits_costs_nobody_anything(
    smollm2: Backend, alone: tuple[float, str]
) -> None:
    with client(smollm2, ENDLESS, "runs"):
        wait(lambda: busy(smollm2))
        with client(smollm2, PREFILL, "waits"):
            time.sleep(0.3)
        wait(lambda: smollm2.post("/cancel/waits", {}).json() == {"prompt_tokens": 0, "completion_tokens": 0})
        assert busy(smollm2)
    seconds, text = first_token(smollm2)
    assert seconds <= LATER + alone[0]
    assert text == alone[1]
    assert smollm2.output == ""
