"""The client's side of one exchange: what of the answer is out already, and what can still be said."""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.types import Send

from llmsvc.proxy.dialects import Dialect
from llmsvc.proxy.errors import ApiError, Headers

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
    :param dialect: words errors and signs of life
    :param request_id: as the client knows it
    """

    def __init__(
        self, send: Send, headers: Callable[[], Headers], dialect: Dialect, request_id: bytes
    ) -> None:
        self._send = send
        self._headers = headers
        self._dialect = dialect
        self._request_id = request_id
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
        await self._events(self._dialect.alive, last=False)

    async def end(self, data: bytes = b"") -> None:
        """Ends a stream with these events."""
        self.answering = True
        await self._events(data, last=True)

    async def end_failed(self, error: bytes) -> None:
        """Ends a stream with an error, which is JSON in one line."""
        self.answering = True
        await self._body(self._dialect.error_event(error), last=True)

    async def fail(self, error: ApiError) -> None:
        """Sends an error: as an answer, or as an event where a stream has begun; nothing after the end."""
        if self.complete:
            return
        told = self._dialect.error(error, self._request_id)
        if self.started:
            await self.end_failed(told)
        else:
            await self.answer(error.status, told, [_JSON, *error.headers])

    async def _events(self, data: bytes, last: bool) -> None:
        if not self.started:
            await self._start(200, _STREAM_HEADERS)
        await self._body(data, last)

    async def _start(self, status: int, headers: Headers) -> None:
        self.started = True
        await self._send({"type": "http.response.start", "status": status, "headers": self._all(headers)})

    def _all(self, headers: Headers) -> Headers:
        return [*headers, *self._headers(), *self._dialect.headers(self._request_id)]

    async def _body(self, data: bytes, last: bool = False) -> None:
        self.complete = last
        self.bytes += len(data)
        if last and self.before_last is not None:
            self.before_last()
        self.last_write = time.monotonic()
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})
