"""The HTTP server on the instance's unix socket, and its life towards systemd: READY, WATCHDOG, STOPPING."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import uvicorn

from llmsvc.backend.adapter import Adapter
from llmsvc.backend.engines import Engine
from llmsvc.errors import Error
from llmsvc.systemd import notify

_LINGER_SECONDS = 0.25
STUCK_SECONDS = 30.0
"""After so long without a move of the running job systemd gets no more signs of life, and ends us."""


def bind(path: Path) -> socket.socket:
    """A listening socket at `path` that the owner and its group may open; a stale file is replaced.

    :raises Error: it cannot be bound
    """
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        path.unlink(missing_ok=True)
        listener.bind(str(path))
        # nobody can connect before listen(), so the mode is right in time
        path.chmod(0o660)
    except OSError as error:
        listener.close()
        raise Error(f"cannot listen on {path}: {error.strerror}") from None
    return listener


class Server(uvicorn.Server):
    """Serves the adapter until SIGTERM, then drains.

    :param app: the adapter, or what stands before it
    """

    def __init__(
        self,
        app: Callable[..., Any],
        adapter: Adapter,
        engine: Engine,
        *,
        drain_seconds: float,
        status: str,
    ) -> None:
        config = uvicorn.Config(
            app,
            http="httptools",
            ws="none",
            lifespan="off",
            log_config=None,
            # a warning is what any client may provoke as often as it likes
            log_level="error",
            access_log=False,
            server_header=False,
            date_header=False,
            # the proxy keeps connections open; it must not find one closed just as it sends
            timeout_keep_alive=300,
            # after the drain, streams get their error event; what is left then is a dead peer
            timeout_graceful_shutdown=int(drain_seconds) + 2,
        )
        super().__init__(config)
        self._adapter = adapter
        self._engine = engine
        self._drain_seconds = drain_seconds
        self._status = status
        self._end = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        self._watchdog = asyncio.create_task(self._show_life())
        notify.ready(self._status)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        notify.stopping("Finishing what runs" if self._adapter.jobs.busy_since() else "Stopping")
        end = asyncio.get_running_loop().call_later(
            self._drain_seconds, self._adapter.jobs.cancel_all, "stopping"
        )
        for server in self.servers:
            server.close()
        for sock in sockets or []:
            sock.close()
        if len(sockets or []) > 1:
            # clients of single-key mode that have connected already may yet send their request
            await asyncio.sleep(_LINGER_SECONDS)
        await super().shutdown(sockets)
        end.cancel()
        self._watchdog.cancel()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """SIGTERM ends with exit status 0; uvicorn's own would raise the signal again at the end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stop)
        try:
            yield
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def main_loop(self) -> None:
        """uvicorn's looks ten times a second whether it should end, and keeps a date header up to date."""
        await self._end.wait()

    def _stop(self) -> None:
        self.should_exit = True
        self._end.set()

    async def _show_life(self) -> None:
        interval = notify.watchdog_seconds()
        while interval:
            if self._engine.alive(STUCK_SECONDS):
                notify.watchdog()
            await asyncio.sleep(interval)
