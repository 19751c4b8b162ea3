"""What the tests send, and ways to send it."""

from __future__ import annotations

import concurrent.futures
import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx

HELLO = [{"role": "user", "content": "say hello to me"}]
ENDLESS = {"tokens": 10000, "delay": 0.02}
CHAT = "/v1/chat/completions"


def body(**more: Any) -> dict[str, Any]:
    return {"model": "current", "messages": HELLO, **more}


@contextlib.contextmanager
def open_stream(stack: Any, key: str, **more: Any) -> Iterator[Iterator[str]]:
    """A stream whose first event is there; gives its further lines."""
    with stack.http(key) as client:
        with client.stream("POST", CHAT, json=body(stream=True, mock=ENDLESS, **more)) as answer:
            lines = answer.iter_lines()
            assert next(lines).startswith("data: ")
            yield lines


def background(function: Callable[..., Any], *args: Any) -> concurrent.futures.Future[Any]:
    """Runs the function in a thread of its own."""
    future: concurrent.futures.Future[Any] = concurrent.futures.Future()

    def run() -> None:
        try:
            future.set_result(function(*args))
        except BaseException as error:
            future.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return future


def post(stack: Any, key: str, **more: Any) -> httpx.Response:
    with stack.http(key) as client:
        return client.post(CHAT, json=body(**more))
