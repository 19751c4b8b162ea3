"""One request of a connection and its answer, as ASGI has it: receive() the body, send() what is said."""

from __future__ import annotations

import asyncio
import http
import logging
from typing import TYPE_CHECKING

from starlette.types import ASGIApp, Message, Scope

from llmsvc.proxy import dialects
from llmsvc.proxy.errors import ApiError

if TYPE_CHECKING:
    from llmsvc.proxy.connection import Connection

_log = logging.getLogger(__name__)

_BODILESS = (204, 304)
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_CHUNKED = b"transfer-encoding: chunked\r\n"
_CLOSE = b"connection: close\r\n"


def _status_line(status: int) -> bytes:
    phrase = http.HTTPStatus(status).phrase if status in http.HTTPStatus._value2member_map_ else ""
    return f"HTTP/1.1 {status} {phrase}\r\n".encode()


STATUS_LINES = {status: _status_line(status) for status in range(100, 600)}


class Cycle:
    """A request and its answer. `keep_alive`: the connection may be used again afterwards."""

    def __init__(
        self, connection: Connection, scope: Scope, *, keep_alive: bool, expects_continue: bool
    ) -> None:
        self.scope = scope
        self.keep_alive = keep_alive
        self.started = False
        """A part of the answer is out."""
        self.complete = False
        """The answer is."""
        self._connection = connection
        self._expects_continue = expects_continue
        self._gone = False
        self._news = asyncio.Event()
        self._body: list[bytes] = []
        self._unread = 0
        self._more_body = True
        self.headed = False
        """Its headers have said whether the connection may be used again."""
        self._head: bytes | None = None
        self._chunked = False
        self._left: int | None = None

    def feed(self, data: bytes) -> int:
        """Takes a piece of the body; returns how many bytes nobody has read yet."""
        self._body.append(data)
        self._unread += len(data)
        self._expects_continue = False
        self._news.set()
        return self._unread

    def feed_end(self) -> None:
        """The body is complete."""
        self._more_body = False
        self._news.set()

    def disconnect(self) -> None:
        """The client is gone, or will get no answer."""
        self._gone = True
        self._news.set()
        self._connection.writable.set()

    async def run(self, app: ASGIApp) -> None:
        """Lets the application answer; something is answered whatever it does."""
        if self._gone:
            return  # its client left before its turn
        try:
            await app(self.scope, self.receive, self.send)
        except Exception:
            _log.exception("a request failed")
        if self._over():
            return
        if self.started:
            self._connection.transport.abort()
            return
        self._head = None
        failed = ApiError(500, "The proxy failed.", kind="server_error", code="internal_error")
        body = dialects.of(self.scope["path"]).error(failed, b"")
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(body))]
        await self.send({"type": "http.response.start", "status": 500, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})

    async def receive(self) -> Message:
        """The next part of the body, or that the client is gone or has its answer."""
        connection = self._connection
        if self._expects_continue and not self.started and not self._gone:
            self._expects_continue = False
            connection.write(_CONTINUE)
        if not self._over():
            connection.resume_reading()
            await self._news.wait()
            self._news.clear()
        if self._over():
            return {"type": "http.disconnect"}
        body = b"".join(self._body)
        self._body.clear()
        self._unread = 0
        return {"type": "http.request", "body": body, "more_body": self._more_body}

    async def send(self, message: Message) -> None:
        """Sends a part of the answer; waits while the client reads more slowly than we write."""
        connection = self._connection
        if not connection.writable.is_set():
            await connection.writable.wait()
        if self._gone:
            return
        if message["type"] == "http.response.start":
            self._prepare(message)
            return
        body: bytes = message.get("body", b"")
        last = not message.get("more_body", False)
        if self.scope["method"] == "HEAD":
            data = b""
        elif self._chunked:
            data = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
            if last:
                data += b"0\r\n\r\n"
        else:
            data = body
            if self._left is not None:
                self._left -= len(body)
                if self._left < 0 or (last and self._left):
                    raise RuntimeError("the answer has another length than it said")
        if self._head is not None:
            data = self._head + data
            self._head = None
            self.started = True
        if last:
            self.complete = True
            self._news.set()
            connection.answer_ends(self, data)
        elif data:
            connection.write(data)

    def _over(self) -> bool:
        """Nothing more can be said."""
        return self._gone or self.complete

    def _prepare(self, message: Message) -> None:
        """Makes the head, which goes out with the first of the body."""
        status: int = message["status"]
        lines = [STATUS_LINES[status]]
        self.headed = True
        self._chunked, self._left = False, None
        if self._expects_continue:
            # whether the body comes after all is not known
            self.keep_alive = False
        framed = status in _BODILESS
        for name, value in (*self._connection.state.default_headers, *message.get("headers", ())):
            if name == b"content-length":
                self._left, framed = int(value), True
            elif name == b"connection":
                if value == b"close":
                    self.keep_alive = False
                continue
            lines.append(b"%s: %s\r\n" % (name, value))
        if not framed:
            if self.scope["http_version"] == "1.1":
                self._chunked = True
                lines.append(_CHUNKED)
            else:
                self.keep_alive = False
        if not self.keep_alive:
            lines.append(_CLOSE)
        head = b"".join(lines)
        if head.count(b"\n") != len(lines):
            raise RuntimeError("a header of the answer holds a line end")
        self._head = head + b"\r\n"
