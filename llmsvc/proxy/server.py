"""The HTTP server: systemd's sockets, readiness, watchdog, and a stop that loses no request.

On SIGTERM we stop accepting; systemd keeps the listening sockets, so new connections wait there for the next
process, or are refused where systemd is about to close the sockets too. Connections that were accepted
already get a moment to send their next request, from their last answer on, for a client may have sent it
before it hears of our end; and all requests, running or waiting, are served for a while.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import socket
import ssl
import time
from collections.abc import Collection, Coroutine
from pathlib import Path
from types import FrameType
from typing import Any, cast

import uvicorn

from llmsvc.errors import Error
from llmsvc.process import run
from llmsvc.proxy import limits
from llmsvc.proxy.addresses import Proxies
from llmsvc.proxy.alerts import Alerts
from llmsvc.proxy.app import Application
from llmsvc.proxy.connection import Connection
from llmsvc.proxy.door import Door
from llmsvc.proxy.errors import STOPPING
from llmsvc.proxy.services import Services
from llmsvc.proxy.status import Status, keep
from llmsvc.systemd import notify
from llmsvc.systemd.manager import SOCKET

_log = logging.getLogger(__name__)

# a busy client sends its next request within milliseconds, if the machine lets it
_LINGER_SECONDS = 1.0
_LOOK_SECONDS = 0.02
_FIRST_KEYS_SECONDS = 1.0
_STATUS_SECONDS = 0.2
_SAVE_SECONDS = 5.0
_GIVE_UP_SECONDS = 3
_ASK_SECONDS = 1.0
_CANCEL_SECONDS = 0.5
_BACKLOG = 4096


class Server(uvicorn.Server):
    """Serves until SIGTERM.

    :param limits_file: keeps the windows of the limits over a restart
    :param status_file: tells what we do
    :param tls: for HTTPS instead of HTTP
    """

    def __init__(
        self,
        services: Services,
        status: Status,
        alerts: Alerts,
        limits_file: Path,
        status_file: Path,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        # it would tell of every step of our stop
        logging.getLogger("uvicorn.error").setLevel(logging.WARNING)
        self._app = Application(services)
        super().__init__(
            uvicorn.Config(
                self._app,
                loop="uvloop",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                timeout_graceful_shutdown=_GIVE_UP_SECONDS,
            )
        )
        config = services.config
        self._door = Door(
            config.llama_proxy_max_connections,
            config.llama_proxy_max_connections_per_address,
            config.llama_proxy_header_seconds,
            config.llama_proxy_body_seconds,
            Proxies(config.llama_proxy_trusted_proxies or ()),
        )
        self._tls = tls
        self._services = services
        self._status = status
        self._alerts = alerts
        self._limits_file = limits_file
        self._status_file = status_file
        self._tasks: list[asyncio.Task[None]] = []

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Knows keys and backend before the first request is taken; does not insist on PostgreSQL."""
        services = self._services
        services.keys.load_snapshot()
        limits.load(services.limits, self._limits_file)
        self._start(services.keys.run())
        await services.upstream.scan()
        self._start(services.upstream.run())
        self._start(services.queue.sweep())
        self._start(services.switcher.run())
        self._start(services.ledger.run())
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(services.keys.first_attempt.wait(), _FIRST_KEYS_SECONDS)
        # its own connections know no time-outs: it gets no socket, and serves with ours
        await super().startup([])
        for sock in sockets or []:
            self.servers.append(await self._serve_on(sock))
        self._start(self._door.sweep(lambda: cast(Collection[Connection], self.server_state.connections)))
        # what lives now lives for ever: the collector need not look at it again and again
        gc.collect()
        gc.freeze()
        notify.ready(self._status.line())
        self._start(self._report())
        self._start(keep(self._status, self._status_file))
        self._start(self._alerts.run())
        self._start(self._save_limits())
        seconds = notify.watchdog_seconds()
        if seconds is not None:
            self._start(_watchdog(seconds))

    async def _serve_on(self, sock: socket.socket) -> asyncio.Server:
        def connection() -> Connection:
            return Connection(self._app, self._door, self.server_state)

        # who never ends the handshake is no connection of ours yet
        seconds = None if self._tls is None else float(self._door.head_seconds)
        return await asyncio.get_running_loop().create_server(
            connection, sock=sock, backlog=_BACKLOG, ssl=self._tls, ssl_handshake_timeout=seconds
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stops accepting, serves what is there, and stores what must outlive us."""
        services = self._services
        deadline = time.monotonic() + services.config.llama_proxy_drain_seconds
        notify.stopping(f"finishing {len(services.running)} requests")
        # a unix socket never comes back from it: systemd would find it readable for ever, and do nothing else
        ports = [sock for sock in sockets or [] if sock.family != socket.AF_UNIX]
        refusing = [sock.dup() for sock in ports] if await asyncio.to_thread(_socket_stops) else []
        for sock in refusing:
            # to close our copy would not do: systemd's accepts connections until we have ended
            sock.shutdown(socket.SHUT_RD)
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        lingering = True
        while (lingering or services.running) and time.monotonic() < deadline and not self.force_exit:
            # before the sleep: what came while we had no time is read in it
            now = time.monotonic()
            await asyncio.sleep(_LOOK_SECONDS)
            lingering = self._leave_connections(now)
        for exchange in list(services.running):
            exchange.abort(STOPPING)
        # an exchange that was just aborted ends its answer before the connections are closed
        for _ in range(50):
            if not services.running:
                break
            await asyncio.sleep(0.02)
        await super().shutdown(sockets)
        await self._stop()
        for sock in refusing:
            # systemd would take a socket that hung up for a failure
            sock.listen()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Notes the signal; a second one ends the waiting. It is not raised again: this was a good end."""
        self.force_exit = self.should_exit
        self.should_exit = True

    def _leave_connections(self, now: float) -> bool:
        """Closes those that are done with; returns whether a request may be on its way on another one."""
        self._door.closing = True
        connections = cast(Collection[Connection], self.server_state.connections)
        left = [connection.leave(now - _LINGER_SECONDS) for connection in connections]
        return any(left)

    async def _stop(self) -> None:
        await _end(self._tasks)
        limits.save(self._services.limits.dump(), self._limits_file)
        await self._services.usage.close()
        await self._services.ledger.close()
        self._services.upstream.close()

    def _start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(coroutine)
        task.add_done_callback(self._ended)
        self._tasks.append(task)
        return task

    def _ended(self, task: asyncio.Task[None]) -> None:
        # each of them runs for ever; without one we would serve wrongly, and a restart costs no request
        if not task.cancelled() and task.exception() is not None:
            _log.critical("a part of the proxy failed, restarting", exc_info=task.exception())
            self.failed = True
            self.should_exit = True

    failed = False
    """A part of the proxy failed; the process should end with an error."""

    async def _report(self) -> None:
        last = ""
        while True:
            if self._status.line() != last:
                last = self._status.line()
                # it blocks while systemd is busy with itself, as in a daemon-reload
                await asyncio.to_thread(notify.status, last)
            await asyncio.sleep(_STATUS_SECONDS)

    async def _save_limits(self) -> None:
        while True:
            await asyncio.sleep(_SAVE_SECONDS)
            dump = self._services.limits.dump()
            await asyncio.to_thread(limits.save, dump, self._limits_file)


async def _end(tasks: Collection[asyncio.Task[None]]) -> None:
    running = set(tasks)
    while running:
        for task in running:
            task.cancel()
        # before Python 3.12, wait_for() drops a cancel that comes together with what it waits for
        _, running = await asyncio.wait(running, timeout=_CANCEL_SECONDS)


def _socket_stops() -> bool:
    """Whether systemd has a job for our socket: it is stopped or restarted with us."""
    try:
        shown = run(["systemctl", "show", "-p", "Job", "--value", SOCKET], check=False, seconds=_ASK_SECONDS)
    except Error:
        return False
    return shown.stdout.strip() not in ("", "0")


async def _watchdog(seconds: float) -> None:
    while True:
        notify.watchdog()
        await asyncio.sleep(seconds)
