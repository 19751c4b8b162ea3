"""Sends answers: headers with the first event, exact usage, an error that nothing follows."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from llmsvc.backend.dialects import Answer
from llmsvc.backend.jobs import Job
from llmsvc.backend.problem import ApiError

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

Events = asyncio.Queue[Message | ApiError | None]
"""What an engine sends: messages of ASGI with whole events of a stream, and at the end None or what went
wrong."""
MAX_UNREAD_EVENTS = 20_000
"""Events of a stream that may wait for a client that does not read."""

DONE = b"data: [DONE]"
"""The last event of an engine's stream."""


def put(events: Events, message: Message, job: Job) -> None:
    """Adds a message; a client that is too far behind loses its request."""
    events.put_nowait(message)
    if events.qsize() > MAX_UNREAD_EVENTS:
        job.cancel("slow")


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


async def whole(send: Send, events: Events, job: Job, answer: Answer) -> None:
    """Sends the answer in one piece, once the app is done.

    :param answer: words it
    :raises ApiError: the app failed
    """
    while isinstance(message := await events.get(), MutableMapping):
        pass  # what the app sends is but an empty answer
    if message is not None:
        raise message
    if job.answer is None:
        raise ApiError(500, "the model failed on this request")
    await send_json(send, 200, answer.whole(job.answer), job.request_id)


async def stream(send: Send, events: Events, job: Job, answer: Answer) -> None:
    """Sends the app's events as they come, the usage at the end, or an error event.

    :param answer: words them
    :raises ApiError: the app failed before its first event
    """
    begun = complete = False

    async def write(data: bytes) -> None:
        if data:
            await send({"type": "http.response.body", "body": data, "more_body": True})

    while isinstance(message := await events.get(), MutableMapping):
        data = message.get("body", b"").strip()
        if data == DONE:
            complete = True
        elif data.startswith(b"data: "):
            if not begun:
                begun = True
                await send(_stream_start(job.request_id))
            await write(answer.events(data))
    problem = message
    if problem is None and not (begun and complete):
        problem = ApiError(500, "the model failed on this request")
    if problem is not None and not begun:
        raise problem
    for event in answer.end(problem):
        await write(event)
    await send({"type": "http.response.body", "body": b""})


def _stream_start(request_id: str) -> Message:
    headers = [
        (b"content-type", b"text/event-stream; charset=utf-8"),
        (b"cache-control", b"no-cache"),
        (b"x-request-id", request_id.encode()),
    ]
    return {"type": "http.response.start", "status": 200, "headers": headers}
