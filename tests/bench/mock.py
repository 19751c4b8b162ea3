"""A backend that costs next to nothing, so that a measurement shows what stands in front of it.

    python -m tests.bench.mock INSTANCES NAME PORT [--slots 16]

keeps the backend contract on INSTANCES/NAME/http.sock, and on a TCP port of the loopback for measuring it
alone. An answer has as many tokens as `mock.tokens` in the request's body says (8), and in a stream
`mock.period` seconds between them (0: all at once). GET /mock tells how many requests it had, and how many
it had at once.
"""

from __future__ import annotations

import argparse
import asyncio
import functools
import gc
import json
from pathlib import Path
from typing import NamedTuple, cast

import uvloop

_USAGE = {"prompt_tokens": 60, "completion_tokens": 0, "total_tokens": 0}


class Answer(NamedTuple):
    """An answer as bytes: the parts of a stream, or one part that is all."""

    head: bytes
    parts: list[bytes]
    period: float


@functools.lru_cache(maxsize=64)
def answer(body: bytes) -> Answer:
    """The answer to a request's body."""
    request = json.loads(body)
    steer = request.get("mock", {})
    tokens = steer.get("tokens", 8)
    usage = {**_USAGE, "completion_tokens": tokens, "total_tokens": 60 + tokens}
    base = {"id": "chatcmpl-0f3c2b8a", "created": 1_780_000_000, "model": request.get("model")}
    if request.get("stream") is not True:
        message = {"role": "assistant", "content": "words " * tokens}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        text = json.dumps({**base, "object": "chat.completion", "choices": [choice], "usage": usage}).encode()
        return Answer(_head("application/json", b"content-length: %d" % len(text)) + text, [], 0.0)

    def event(choices: list[object], **more: object) -> bytes:
        data = json.dumps({**base, "object": "chat.completion.chunk", "choices": choices, **more})
        return _chunk(b"data: " + data.encode() + b"\n\n")

    words = event([{"index": 0, "delta": {"content": " words"}, "finish_reason": None}])
    last = event([{"index": 0, "delta": {}, "finish_reason": "stop"}]) + event([], usage=usage)
    parts = [*[words] * tokens, last + _chunk(b"data: [DONE]\n\n") + _chunk(b"")]
    head = _head("text/event-stream; charset=utf-8", b"transfer-encoding: chunked")
    return Answer(head, parts, steer.get("period", 0.0))


def _head(kind: str, length: bytes) -> bytes:
    return b"HTTP/1.1 200 OK\r\ncontent-type: " + kind.encode() + b"\r\n" + length + b"\r\n\r\n"


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n" % len(data) + data + b"\r\n"


class Counts:
    """What the mock saw."""

    requests = running = peak = 0

    def begin(self) -> None:
        self.requests += 1
        self.running += 1
        self.peak = max(self.peak, self.running)

    def end(self) -> None:
        self.running -= 1


class Connection(asyncio.Protocol):
    """One connection; a request on it at a time."""

    def __init__(self, health: bytes, counts: Counts) -> None:
        self._health, self._counts = health, counts
        self._data = b""
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._write = cast(asyncio.Transport, transport).write

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._counts.end()

    def data_received(self, data: bytes) -> None:
        self._data += data
        end = self._data.find(b"\r\n\r\n") + 4
        if end < 4:
            return
        head = self._data[:end].lower()
        length = head.partition(b"content-length:")[2].partition(b"\r\n")[0]
        size = end + int(length or 0)
        if len(self._data) < size:
            return
        body, self._data = self._data[end:size], self._data[size:]
        if head.startswith(b"post /v1/"):
            self._answer(answer(body))
        elif head.startswith(b"get /health"):
            self._tell(self._health)
        elif head.startswith(b"get /mock"):
            self._tell(json.dumps({"requests": self._counts.requests, "peak": self._counts.peak}).encode())
        else:
            self._write(b"HTTP/1.1 404 Not Found\r\ncontent-length: 2\r\n\r\n{}")

    def _tell(self, data: bytes) -> None:
        self._write(_head("application/json", b"content-length: %d" % len(data)) + data)

    def _answer(self, given: Answer) -> None:
        self._counts.begin()
        if given.period:
            self._write(given.head)
            self._next(given, 0, asyncio.get_running_loop())
        else:
            self._write(given.head + b"".join(given.parts))
            self._counts.end()

    def _next(self, given: Answer, number: int, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        self._write(given.parts[number])
        if number + 1 < len(given.parts):
            self._timer = loop.call_later(given.period, self._next, given, number + 1, loop)
        else:
            self._counts.end()


async def serve(directory: Path, port: int, slots: int) -> None:
    """Serves for ever."""
    name = directory.name
    about = {"status": "ok", "model": name, "model_file": f"{name}.gguf", "slots": slots, "n_ctx": 4096}
    health = json.dumps({**about, "engine": "mock"}).encode()
    counts = Counts()
    loop = asyncio.get_running_loop()
    await loop.create_unix_server(
        lambda: Connection(health, counts), str(directory / "http.sock"), backlog=2048
    )
    await loop.create_server(lambda: Connection(health, counts), "127.0.0.1", port, backlog=2048)
    (directory / "ready").touch()
    gc.disable()
    await loop.create_future()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("instances", type=Path)
    parser.add_argument("name")
    parser.add_argument("port", type=int)
    parser.add_argument("--slots", type=int, default=16)
    args = parser.parse_args()
    directory = args.instances / args.name
    directory.mkdir(parents=True, exist_ok=True)
    uvloop.run(serve(directory, args.port, args.slots))


if __name__ == "__main__":
    main()
