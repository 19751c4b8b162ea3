"""Finds the backend that is ready and gives it to the queue, which holds everybody while there is none."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from llmsvc.proxy.backends import LOST, Backend, ready_instances
from llmsvc.proxy.fair_queue import FairQueue

_log = logging.getLogger(__name__)
_SCAN_SECONDS = 0.1


class Upstream:
    """Watches the runtime directories of the instances.

    :param instances: the directory that holds one directory an instance
    """

    def __init__(self, instances: Path, queue: FairQueue) -> None:
        self._instances = instances
        self._queue = queue
        self._retired: list[Backend] = []
        self.coming: str | None = None

    @property
    def backend(self) -> Backend | None:
        """The backend that gets the requests now."""
        return self._queue.backend

    async def scan(self) -> None:
        """Looks once who is ready."""
        ready, coming = ready_instances(self._instances)
        self.coming = coming[-1] if coming else None
        current = self.backend
        newest = ready[-1] if ready else None
        if current is not None and current.identity != newest:
            self.lost(current)
            current = None
        if current is None and newest is not None:
            created, name, _ = newest
            socket = self._instances / name / "http.sock"
            try:
                backend = await Backend.probe(name, socket, newest, created // 10**9)
            except (*LOST, ValueError):
                return
            self._queue.set_backend(backend)
            _log.info(
                "model %s is ready: %d at once, context %s", backend.name, backend.slots, backend.context
            )

    def lost(self, backend: Backend) -> None:
        """The backend does not answer, or is no longer the one: requests are held until one is found."""
        if self._queue.backend is backend:
            self._queue.set_backend(None)
            self._retired.append(backend)
            _log.info("model %s is gone, requests are held", backend.name)

    async def run(self) -> None:
        """Scans for ever; to be run as a task."""
        while True:
            await self.scan()
            for backend in [b for b in self._retired if not b.running]:
                self._retired.remove(backend)
                await backend.close()
            await asyncio.sleep(_SCAN_SECONDS)

    async def close(self) -> None:
        """Closes the connections to all backends."""
        for backend in [*self._retired, *([self.backend] if self.backend else [])]:
            await backend.close()
