"""A connection that ends at an awkward moment."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.server import ServerState

from llmsvc.proxy.addresses import Proxies
from llmsvc.proxy.connection import Connection
from llmsvc.proxy.door import Door
from llmsvc.proxy.exchange import BUFFER_ANSWER

REQUEST = b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"


class Transport:
    """As strict as uvloop's: one that is closed can do nothing any more."""

    def __init__(self) -> None:
        self.written = b""
        self.closing = self.closed = self.ended = False

    def get_extra_info(self, name: str) -> Any:
        return {"peername": ("192.0.2.1", 5), "sockname": ("192.0.2.2", 80)}.get(name)

    def write(self, data: bytes) -> None:
        assert not self.closed
        assert not self.ended, "after write_eof()"
        self.written += data

    def can_write_eof(self) -> bool:
        return True

    def write_eof(self) -> None:
        self.ended = True

    def is_closing(self) -> bool:
        return self.closing

    def close(self) -> None:
        self.closing = True

    abort = close

    def pause_reading(self) -> None:
        assert not self.closing

    def resume_reading(self) -> None:
        assert not self.closing

    def set_write_buffer_limits(self, high: int) -> None:
        assert not self.closed


class Rig:
    """A connection whose application notes that it was called, answers, and reads the body."""

    def __init__(self) -> None:
        self.calls = 0
        self.state = ServerState()
        self.transport: Any = Transport()
        self.connection = Connection(self.app, Door(9, 9, 1, 1, Proxies()), self.state)
        self.connection.connection_made(self.transport)

    async def app(self, scope: Any, receive: Any, send: Any) -> None:
        self.calls += 1
        scope[BUFFER_ANSWER]()
        while (await receive())["type"] != "http.disconnect":
            await send({"type": "http.response.start", "status": 204, "headers": []})
            await send({"type": "http.response.body", "body": b""})

    async def settle(self) -> None:
        if self.state.tasks:
            await asyncio.wait(self.state.tasks, timeout=5)
        assert not self.state.tasks

    def lose(self) -> None:
        self.transport.closing = self.transport.closed = True
        self.connection.connection_lost(None)


async def test_client_that_leaves_before_its_request_is_looked_at_is_no_request() -> None:
    rig = Rig()
    rig.connection.data_received(REQUEST)
    rig.lose()
    await rig.settle()
    assert rig.calls == 0
    assert not rig.state.connections


async def test_client_that_leaves_while_its_body_is_awaited_is_told_to_the_application() -> None:
    rig = Rig()
    rig.connection.data_received(REQUEST)
    await asyncio.sleep(0)
    assert rig.transport.written == b"HTTP/1.1 100 Continue\r\n\r\n"
    rig.lose()
    await rig.settle()
    assert rig.calls == 1


async def test_nothing_is_said_after_the_last_words(caplog: Any) -> None:
    rig = Rig()
    chunked = REQUEST.replace(b"Content-Length: 5", b"Transfer-Encoding: chunked")
    rig.connection.data_received(chunked + b"nonsense\r\n")
    await rig.settle()
    assert rig.transport.written.startswith(b"HTTP/1.1 400 ")
    assert rig.transport.written.count(b"HTTP/1.1 ") == 1
    assert rig.transport.ended
    rig.connection.data_received(b"more")
    assert not caplog.records


async def test_an_application_that_fails_is_500_and_one_that_fails_late_is_cut() -> None:
    for early in (True, False):
        rig = Rig()

        async def app(scope: Any, receive: Any, send: Any, early: bool = early) -> None:
            if not early:
                await send({"type": "http.response.start", "status": 200, "headers": []})
                await send({"type": "http.response.body", "body": b"half", "more_body": True})
            raise ValueError("a bug")

        rig.connection._app = app
        rig.connection.data_received(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        await rig.settle()
        if early:
            assert rig.transport.written.startswith(b"HTTP/1.1 500 ")
            assert b"a bug" not in rig.transport.written
        else:
            assert rig.transport.written.endswith(b"4\r\nhalf\r\n")
            assert rig.transport.closing
