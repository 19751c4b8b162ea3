"""A small HTTP/1.1 client for the unix socket of a backend.

A general client took longer than all else that the proxy does for a request. This one knows what a backend
needs, with the parser that uvicorn has: whole bodies go out, answers with a length or in chunks come in, and
connections are kept.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import cast

import httptools

# below the 5 s after which the backend's server closes an idle connection
_KEEPALIVE_SECONDS = 3.0
_CONNECT_SECONDS = 5.0
_MOST_HEAD_BYTES = 64 * 1024
# of an answer whose client does not take it
_MOST_UNREAD_BYTES = 256 * 1024


class LostError(Exception):
    """The backend went away before its answer was complete, or what it sends is no HTTP."""


class RefusedError(LostError):
    """No connection could be made: the backend never had the request."""


class Response:
    """An answer whose head is there.

    :ivar status: the HTTP status
    :ivar content_type: the header as it came
    :ivar complete: all of it has come, though it may not have been read
    """

    __slots__ = (
        "_connection",
        "_error",
        "_parts",
        "_unread",
        "_waiter",
        "complete",
        "content_type",
        "status",
    )

    def __init__(self, connection: _Connection) -> None:
        self.status = 0
        self.content_type = ""
        self.complete = False
        self._connection = connection
        self._parts: list[bytes] = []
        self._unread = 0
        self._error: LostError | None = None
        self._waiter: asyncio.Future[None] | None = None

    async def read(self) -> bytes:
        """The rest of the body.

        :raises LostError: it will never be complete
        """
        parts = []
        while part := await self.read_some():
            parts.append(part)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    async def read_some(self) -> bytes:
        """What has come of the body since the last time, at least one byte; b"" at its end.

        :raises LostError: it will never be complete
        """
        while not self._parts and not self.complete:
            await self._change()
        parts, self._parts, self._unread = self._parts, [], 0
        if not self.complete:
            self._connection.pause(False)
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def close(self) -> None:
        """No more is wanted; a connection with the rest of an answer is of no use."""
        if not self.complete:
            self._connection.close()

    async def head(self) -> None:
        """Waits until the head is there.

        :raises LostError: it will never be
        """
        while not self.status:
            await self._change()

    def add(self, data: bytes) -> None:
        """This came of the body."""
        self._parts.append(data)
        self._unread += len(data)
        if self._unread > _MOST_UNREAD_BYTES:
            self._connection.pause(True)

    def fail(self, error: LostError) -> None:
        """No more will come."""
        if not self.complete:
            self._error = error
            self.changed()

    def changed(self) -> None:
        """Wakes who waits for more."""
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def _change(self) -> None:
        if self._error is not None:
            raise self._error
        self._waiter = asyncio.get_running_loop().create_future()
        await self._waiter


class _Connection(asyncio.Protocol):
    """One connection, and the answer that it waits for; its `on_` methods are called by the parser."""

    def __init__(self, connections: Connections) -> None:
        self._connections = connections
        self._parser = httptools.HttpResponseParser(self)
        self._response: Response | None = None
        self._head_bytes = 0
        self._paused = False
        self.idle_since = 0.0

    @property
    def usable(self) -> bool:
        """Whether it can take a request."""
        return not self._transport.is_closing() and time.monotonic() - self.idle_since < _KEEPALIVE_SECONDS

    async def ask(self, request: list[bytes]) -> Response:
        """Sends a request and waits for the head of its answer.

        :raises LostError: there will be none
        """
        response = self._response = Response(self)
        self._head_bytes = 0
        self._transport.writelines(request)
        try:
            await response.head()
        except BaseException:
            # not the connection: with a whole answer, it may have somebody else's request by now
            response.close()
            raise
        return response

    def pause(self, paused: bool) -> None:
        """Whether to read no more for now."""
        if paused != self._paused and not self._transport.is_closing():
            self._paused = paused
            self._transport.pause_reading() if paused else self._transport.resume_reading()

    def close(self) -> None:
        """Ends it, and with that the answer that it waits for."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._connections.forget(self)
        if self._response is not None:
            self._response.fail(LostError(f"the backend closed the connection: {exc or 'in good order'}"))

    def data_received(self, data: bytes) -> None:
        response = self._response
        if response is None:
            self.close()  # it talks though nobody asked
            return
        try:
            if not response.status:
                self._head_bytes += len(data)
            self._parser.feed_data(data)
            if not response.status and self._head_bytes > _MOST_HEAD_BYTES:
                raise httptools.HttpParserError("a head without an end")
        except httptools.HttpParserError as error:
            response.fail(LostError(f"the backend sends no HTTP: {error}"))
            self.close()
        else:
            response.changed()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._response is not None and name.lower() == b"content-type":
            self._response.content_type = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if self._response is not None and status >= 200:
            self._response.status = status

    def on_body(self, body: bytes) -> None:
        if self._response is not None:
            self._response.add(body)

    def on_message_complete(self) -> None:
        response = self._response
        if response is None or not response.status:
            return
        response.complete = True
        self._response = None
        self.pause(False)
        if self._parser.should_keep_alive():
            self._connections.keep(self)
        else:
            self.close()


class Connections:
    """The connections to one socket, as many as there are requests at once."""

    def __init__(self, socket: Path) -> None:
        self._socket = str(socket)
        self._all: set[_Connection] = set()
        self._idle: list[_Connection] = []

    async def get(self, path: str) -> Response:
        """Asks for a path. The answer is to be read to its end, or closed.

        :raises LostError, OSError, TimeoutError: the backend is not there
        """
        return await self._send(b"GET %b HTTP/1.1\r\nhost: backend\r\n\r\n" % path.encode())

    async def post(self, path: str, body: bytes = b"", headers: str = "") -> Response:
        """Sends a JSON body. The answer is to be read to its end, or closed.

        :param headers: more of them, each ended by CR and LF
        :raises LostError, OSError, TimeoutError: the backend is not there
        """
        head = (
            f"POST {path} HTTP/1.1\r\nhost: backend\r\ncontent-type: application/json\r\n"
            f"content-length: {len(body)}\r\n{headers}\r\n"
        )
        return await self._send(head.encode(), body)

    def keep(self, connection: _Connection) -> None:
        """The connection is free."""
        connection.idle_since = time.monotonic()
        self._idle.append(connection)

    def forget(self, connection: _Connection) -> None:
        """The connection is no more."""
        self._all.discard(connection)
        if connection in self._idle:
            self._idle.remove(connection)

    def close(self) -> None:
        """Closes all of them."""
        for connection in list(self._all):
            connection.close()

    async def _send(self, *request: bytes) -> Response:
        while self._idle:
            connection = self._idle.pop()
            if connection.usable:
                break
            connection.close()
        else:
            connection = await self._connect()
        return await connection.ask([part for part in request if part])

    async def _connect(self) -> _Connection:
        loop = asyncio.get_running_loop()
        connecting = loop.create_task(loop.create_unix_connection(lambda: _Connection(self), self._socket))
        try:
            # before Python 3.12, wait_for() drops a cancel that comes together with what it waits for
            await asyncio.wait({connecting}, timeout=_CONNECT_SECONDS)
            if not connecting.done():
                raise asyncio.TimeoutError
            _, connection = connecting.result()
        except (asyncio.CancelledError, asyncio.TimeoutError):
            connecting.add_done_callback(_unwanted)
            connecting.cancel()
            raise
        except OSError as error:
            raise RefusedError(f"the backend takes no connection: {error.strerror}") from None
        self._all.add(connection)
        return connection


def _unwanted(connecting: asyncio.Task[tuple[asyncio.Transport, _Connection]]) -> None:
    if not connecting.cancelled() and connecting.exception() is None:
        connecting.result()[1].close()
