"""The client's side of one exchange: what of the answer is out already, and what can still be said."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import Send

from llmsvc.proxy.errors import ApiError, Headers
from llmsvc.proxy.sse import COMMENT

_JSON = (b"content-type", b"application/json")
_STREAM_HEADERS = (
    (b"content-type", b"text/event-stream; charset=utf-8"),
    (b"cache-control", b"no-cache"),
    # nginx would collect the events
    (b"x-accel-buffering", b"no"),
)


class Client:
    """Sends one answer.

    :param headers: gives the headers that every answer carries
    """

    def __init__(self, send: Send, headers: Callable[[], Headers]) -> None:
        self._send = send
        self._headers = headers
        self.started = False
        self.answering = False
        """Bytes of the answer itself are out: it cannot begin anew."""
        self.complete = False
        """Nothing more may be sent; leaving is no longer leaving early."""
        self.before_last: Callable[[], object] | None = None
        """Called before the last bytes of the answer go out; who has them can be sure that it was."""
        self.bytes = 0
        self.last_write = time.monotonic()

    async def answer(self, status: int, body: bytes, headers: Headers = (_JSON,)) -> None:
        """Sends a whole answer."""
        await self._start(status, [*headers, (b"content-length", b"%d" % len(body))])
        await self._body(body, last=True)

    async def events(self, data: bytes) -> None:
        """Sends whole events of the answer."""
        self.answering = True
        await self._events(data, last=False)

    async def comment(self) -> None:
        """Sends a sign of life."""
        await self._events(COMMENT, last=False)

    async def end(self, data: bytes = b"") -> None:
        """Ends a stream with these events."""
        self.answering = True
        await self._events(data, last=True)

    async def fail(self, error: ApiError) -> None:
        """Sends an error: as an answer, or as an event where a stream has begun; nothing after the end."""
        if self.complete:
            return
        if self.started:
            await self._body(error.event(), last=True)
        else:
            await self.answer(error.status, error.body(), [_JSON, *error.headers])

    async def _events(self, data: bytes, last: bool) -> None:
        if not self.started:
            await self._start(200, _STREAM_HEADERS)
        await self._body(data, last)

    async def _start(self, status: int, headers: Headers) -> None:
        self.started = True
        await self._send(
            {"type": "http.response.start", "status": status, "headers": [*headers, *self._headers()]}
        )

    async def _body(self, data: bytes, last: bool = False) -> None:
        self.complete = last
        self.bytes += len(data)
        if last and self.before_last is not None:
            self.before_last()
        self.last_write = time.monotonic()
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})
