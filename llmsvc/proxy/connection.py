"""One client connection: answers in order, and an end to whoever is slow, endless or wrong.

uvicorn's own protocol class knows one time-out, that between two requests; it closes in the middle of what a
client sends, so that the client sees a reset instead of our answer, and it sends chunks to HTTP/1.0.
"""

from __future__ import annotations

import asyncio
import contextlib
import urllib.parse
from collections import deque
from typing import cast

from starlette.types import ASGIApp, Scope
from uvicorn.server import ServerState

from llmsvc.proxy.addresses import plain
from llmsvc.proxy.cycle import STATUS_LINES, Cycle
from llmsvc.proxy.door import Door
from llmsvc.proxy.errors import ApiError, bad_request
from llmsvc.proxy.exchange import BUFFER_ANSWER
from llmsvc.proxy.framing import Framing, Head

KEEPALIVE_SECONDS = 75.0
"""How long a connection may rest between two requests."""
PIPELINED = 16
"""Requests of one connection that may wait for the one before them; then we read no more."""

# what a client may still send of a body that is answered already, and after our last words
_DISCARD_BYTES = 64 * 1024 * 1024
_DISCARD_LAST_BYTES = 16 * 1024 * 1024
_LAST_WORDS_SECONDS = 2.0
_READ_AHEAD_BYTES = 64 * 1024
# a whole long answer: a client that reads slowly must not hold the model
_WRITE_BUFFER_BYTES = 8 * 1024 * 1024
_ASGI = {"version": "3.0", "spec_version": "2.3"}
_NEVER = float("inf")


class Connection(asyncio.Protocol):
    """A connection of a client.

    :param app: answers requests
    :param door: counts connections, knows the time-outs and whose word counts for a client's address
    :param state: what uvicorn's server knows of its connections
    """

    def __init__(self, app: ASGIApp, door: Door, state: ServerState) -> None:
        self.state = state
        self.loop = asyncio.get_running_loop()
        self.transport: asyncio.Transport = None  # type: ignore[assignment]
        self.writable = asyncio.Event()
        self.writable.set()
        self.deadline = _NEVER
        """Time of the loop at which the client has been waited for too long."""
        self.written = 0
        """Bytes that were given to the transport."""
        self._app = app
        self._door = door
        self._peer: str | None = None
        self._client: tuple[str, int] | None = None
        self._server: tuple[str, int] | None = None
        self._scheme = "http"
        self._trusted = False
        self._admitted = False
        self._reading_paused = False
        self._leaving = False
        self._quiet_since = 0.0
        self._discarded = 0
        self._framing = Framing(self)
        # the request that is being read
        self._cycle: Cycle | None = None
        # those that have no complete answer yet; the first one is being served
        self._cycles: deque[Cycle] = deque()
        self._refusal: ApiError | None = None

    # --- the transport -----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.state.connections.add(self)  # type: ignore[arg-type]
        peer, here = transport.get_extra_info("peername"), transport.get_extra_info("sockname")
        if isinstance(peer, tuple):
            self._peer = plain(peer[0])
            self._client = (self._peer, peer[1])
        if isinstance(here, tuple):
            self._server = (here[0], here[1])
        if transport.get_extra_info("sslcontext") is not None:
            self._scheme = "https"
        self._trusted = self._door.proxies.trusts(self._peer)
        self._quiet_since = self.loop.time()
        self.deadline = self._quiet_since + self._door.head_seconds
        refusal = self._door.enter(self._peer, exempt=self._trusted)
        if refusal is None:
            self._admitted = True
        else:
            self._last_words(refusal)

    def connection_lost(self, exc: Exception | None) -> None:
        self.state.connections.discard(self)
        if self._admitted:
            self._door.leave(self._peer, exempt=self._trusted)
        self._drop_cycles()
        self.writable.set()
        self._framing.close()

    def data_received(self, data: bytes) -> None:
        if self._leaving:
            self._discard(len(data), _DISCARD_LAST_BYTES)
            return
        try:
            self._framing.feed(data)
        except ApiError as error:
            self._broken(error)

    def eof_received(self) -> None:
        """The client has left; one that half-closes cannot be told from it. The transport closes."""

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    # --- requests come -----------------------------------------------------------------------------------

    def request_begins(self) -> None:
        self._cycle = None
        if not self._cycles:
            self._quiet_since = self.loop.time()
            self.deadline = self._quiet_since + self._door.head_seconds

    def head_is_there(self, head: Head) -> None:
        self._discarded = 0
        cycle = self._cycle = Cycle(
            self,
            self._scope(head),
            keep_alive=head.keep_alive and not self._door.closing,
            expects_continue=head.expects_continue,
        )
        self._cycles.append(cycle)
        if len(self._cycles) == 1:
            self._start(cycle)
        elif len(self._cycles) > PIPELINED:
            self.pause_reading()

    def body_comes(self, data: bytes) -> None:
        assert self._cycle is not None
        if self._cycle.complete:
            self._discard(len(data), _DISCARD_BYTES)
        elif self._cycle.feed(data) > _READ_AHEAD_BYTES:
            self.pause_reading()

    def request_ends(self) -> None:
        assert self._cycle is not None
        self._cycle.feed_end()
        if not self._cycles:
            self._rest()

    def _scope(self, head: Head) -> Scope:
        path = head.path.decode("ascii")
        client = self._client
        if self._trusted:
            client = self._door.proxies.client(head.headers, client)
        return {
            "type": "http",
            "asgi": _ASGI,
            "http_version": head.version,
            "method": head.method,
            "scheme": self._scheme,
            "path": urllib.parse.unquote(path) if "%" in path else path,
            "raw_path": head.path,
            "query_string": head.query,
            "root_path": "",
            "headers": head.headers,
            "client": client,
            "server": self._server,
            BUFFER_ANSWER: self._buffer_answer,
        }

    # --- answers go --------------------------------------------------------------------------------------

    def _start(self, cycle: Cycle) -> None:
        self.deadline = _NEVER
        task = self.loop.create_task(cycle.run(self._app))
        self.state.tasks.add(task)
        task.add_done_callback(self.state.tasks.discard)

    def answer_ends(self, cycle: Cycle, data: bytes) -> None:
        """Sends the last bytes of an answer, and goes on with what comes next."""
        self.state.total_requests += 1
        if not self._cycles or self._cycles[0] is not cycle:
            return  # the connection is gone, or is being left
        self._cycles.popleft()
        if data:
            self.write(data)
        if not cycle.keep_alive:
            self._leave()
        elif self._cycles:
            self._start(self._cycles[0])
            if len(self._cycles) <= PIPELINED:
                self.resume_reading()
        elif self._refusal is not None:
            self._last_words(self._refusal)
        else:
            self._rest()
            self.resume_reading()

    def _rest(self) -> None:
        """Nothing is being answered: says how long we wait for what comes next."""
        if not self._framing.in_request:
            seconds = KEEPALIVE_SECONDS
        elif self._framing.in_head:
            seconds = self._door.head_seconds
        else:
            seconds = self._door.body_seconds
        self._quiet_since = self.loop.time()
        self.deadline = self._quiet_since + seconds

    def write(self, data: bytes) -> None:
        """Sends bytes."""
        self.written += len(data)
        self.transport.write(data)

    def pause_reading(self) -> None:
        """Reads no more for now."""
        if not self._reading_paused and not self.transport.is_closing():
            self._reading_paused = True
            self.transport.pause_reading()

    def resume_reading(self) -> None:
        """Reads on."""
        if self._reading_paused and not self.transport.is_closing():
            self._reading_paused = False
            self.transport.resume_reading()

    def _buffer_answer(self) -> None:
        if not self.transport.is_closing():
            self.transport.set_write_buffer_limits(high=_WRITE_BUFFER_BYTES)

    # --- the end -----------------------------------------------------------------------------------------

    def overdue(self) -> None:
        """The deadline has passed."""
        if self._leaving:
            self.transport.abort()
        elif self._framing.in_head:
            self._broken(
                bad_request("The request did not arrive in time.", status=408, code="request_timeout")
            )
        else:
            # one that says nothing expects no answer, and would take it for that of its next request
            self.transport.close()

    def leave(self, quiet_before: float) -> bool:
        """Closes it if no request comes any more; else its next answer says that it is the last one.

        :param quiet_before: time of the loop: who has said nothing since then, says nothing any more
        :returns: whether a request may be on its way
        """
        if not self._cycles:
            if self._quiet_since > quiet_before and not self._leaving:
                return True
            self.transport.close()
        elif not self._cycles[-1].headed:
            self._cycles[-1].keep_alive = False
        # one whose headers are out already has promised to take another request
        return False

    def shutdown(self) -> None:
        """The server ends (called by uvicorn)."""
        if self._cycles:
            self._cycles[-1].keep_alive = False
        else:
            self.transport.close()

    def _broken(self, error: ApiError) -> None:
        """What comes is no request. Those before it get their answers first."""
        cycle, self._cycle = self._cycle, None
        if cycle is not None and self._framing.in_request:
            # it broke in the middle of the body of a request that may have its answer, or a part of it
            if cycle.complete:
                if cycle in self._cycles:
                    cycle.keep_alive = False
                    self._leaving = True
                else:
                    self._leave()
                return
            if cycle.started:
                self.transport.abort()
                return
            self._cycles.remove(cycle)
            cycle.disconnect()
        if self._cycles:
            self._leaving = True
            self._refusal = error
        else:
            self._last_words(error)

    def _last_words(self, error: ApiError) -> None:
        """Answers with an error and closes."""
        body = error.body()
        headers = b"".join(b"%s: %s\r\n" % pair for pair in (*self.state.default_headers, *error.headers))
        self.write(
            STATUS_LINES[error.status]
            + headers
            + b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
            + body
        )
        self._leave(mid_request=True)

    def _leave(self, mid_request: bool = False) -> None:
        """Closes. A client that is still sending would lose our answer by that: it gets time to read it."""
        self._drop_cycles()
        self._leaving = True
        if not mid_request and not self._framing.in_request:
            self.transport.close()
            return
        self.deadline = self.loop.time() + _LAST_WORDS_SECONDS
        self.resume_reading()
        if self.transport.can_write_eof():
            with contextlib.suppress(OSError, RuntimeError):
                self.transport.write_eof()

    def _drop_cycles(self) -> None:
        for cycle in self._cycles:
            cycle.disconnect()
        self._cycles.clear()
        self._cycle = None

    def _discard(self, size: int, most: int) -> None:
        self._discarded += size
        if self._discarded > most:
            self.transport.abort()
