"""Turns an answer of llama_cpp.server's app into ours: headers with the first event, exact usage."""

from __future__ import annotations

import array
import asyncio
import base64 as base64_module
import json
import math
import sys
import time
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from llmsvc.backend import tools
from llmsvc.backend.bodies import Request
from llmsvc.backend.jobs import Job
from llmsvc.backend.problem import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

_DONE = b"data: [DONE]"


def encode(value: object) -> bytes:
    """JSON as it goes over the wire."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode()


async def read_body(receive: Receive, limit: int) -> bytes:
    """A request's whole body.

    :raises ApiError: 413, or 400 where the client left in the middle
    """
    parts, size, more = [], 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ApiError(400, "the body is incomplete")
        part = message.get("body", b"")
        size += len(part)
        if size > limit:
            raise ApiError(413, f"the body is larger than {limit} bytes", code="request_too_large")
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


async def send_json(send: Send, status: int, value: object, request_id: str) -> None:
    """Sends one whole JSON answer."""
    data = encode(value)
    headers = [
        (b"content-type", b"application/json"),
        (b"content-length", b"%d" % len(data)),
        (b"x-request-id", request_id.encode()),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def whole(
    send: Send,
    events: asyncio.Queue[Message | ApiError | None],
    job: Job,
    request: Request,
    *,
    base64: bool,
) -> None:
    """Sends the app's answer as one JSON object with exact usage.

    :param base64: embeddings as base64 of little-endian float32
    :raises ApiError: the app failed
    """
    status, parts = 500, []
    while isinstance(message := await events.get(), MutableMapping):
        status = message.get("status", status)
        parts.append(message.get("body", b""))
    if message is not None:
        raise message
    if status != 200:
        raise ApiError(500, "the model failed on this request")
    answer = json.loads(b"".join(parts))
    if request.path == "/v1/embeddings":
        job.prompt_tokens = answer["usage"]["prompt_tokens"]
        for item in answer["data"]:
            vector = _unit(item["embedding"])
            item["embedding"] = _packed(vector) if base64 else vector
    else:
        answer["usage"] = job.usage()
    if request.tool:
        tools.tidy_answer(answer)
    await send_json(send, 200, answer, job.request_id)


async def stream(
    send: Send, events: asyncio.Queue[Message | ApiError | None], job: Job, request: Request
) -> None:
    """Sends the app's events as they come, the usage before `[DONE]`, or an error event at the end.

    :raises ApiError: the app failed before its first event
    """
    sender = _Stream(send, job, request)
    while isinstance(message := await events.get(), MutableMapping):
        data = message.get("body", b"").strip()
        if data.startswith(b"data: "):
            await sender.event(data)
    problem = message
    if problem is None and not sender.complete:
        problem = ApiError(500, "the model failed on this request")
    await sender.end(problem)


class _Stream:
    def __init__(self, send: Send, job: Job, request: Request) -> None:
        self.complete = False
        self._send = send
        self._job = job
        self._request = request
        self._first: dict[str, Any] | None = None
        self._calls = False

    async def event(self, data: bytes) -> None:
        if data == _DONE:
            self.complete = True
            return
        if self._first is None:
            self._first = json.loads(data[6:])
            await self._start()
        if self._request.tool:
            data = self._tidied(data)
        await self._write(data)

    async def end(self, problem: ApiError | None) -> None:
        if self._first is None:
            raise problem or ApiError(500, "the model failed on this request")
        if problem is None:
            await self._write(b"data: " + encode(self._usage(self._first)))
            await self._write(_DONE)
        else:
            if problem.usage:
                await self._write(b"data: " + encode(self._usage(self._first)))
                problem.usage = None
            await self._write(b"data: " + encode(problem.body()))
        await self._send({"type": "http.response.body", "body": b""})

    async def _start(self) -> None:
        headers = [
            (b"content-type", b"text/event-stream; charset=utf-8"),
            (b"cache-control", b"no-cache"),
            (b"x-request-id", self._job.request_id.encode()),
        ]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})

    async def _write(self, data: bytes) -> None:
        await self._send({"type": "http.response.body", "body": data + b"\n\n", "more_body": True})

    def _tidied(self, data: bytes) -> bytes:
        chunk = json.loads(data[6:])
        has_call = any(choice.get("delta", {}).get("tool_calls") for choice in chunk.get("choices", []))
        tools.tidy_chunk(chunk, first=not self._calls)
        self._calls = self._calls or has_call
        return b"data: " + encode(chunk)

    def _usage(self, first: dict[str, Any]) -> dict[str, Any]:
        """The chunk that OpenAI sends for stream_options.include_usage."""
        return {
            "id": first.get("id"),
            "object": first.get("object"),
            "created": first.get("created", int(time.time())),
            "model": first.get("model"),
            "choices": [],
            "usage": self._job.usage(),
        }


def _unit(embedding: list[Any]) -> list[float]:
    """One vector of length 1, as OpenAI's are; of a model without pooling the mean over its tokens."""
    if isinstance(embedding[0], list):
        embedding = [sum(column) / len(embedding) for column in zip(*embedding, strict=True)]
    length = math.hypot(*embedding) or 1.0
    return [value / length for value in embedding]


def _packed(values: list[float]) -> str:
    floats = array.array("f", values)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64_module.b64encode(floats.tobytes()).decode()
