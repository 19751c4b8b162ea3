"""Finds the backend that is ready and gives it to the queue, which holds everybody while there is none.

It sees what is on its way, and remembers how the last switch went.
"""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from pathlib import Path

from llmsvc.proxy.backends import LOST, Backend, ready_instances
from llmsvc.proxy.fair_queue import FairQueue
from llmsvc.proxy.incidents import Incidents
from llmsvc.proxy.poison import Poison

_log = logging.getLogger(__name__)
_SCAN_SECONDS = 0.1


@dataclasses.dataclass(frozen=True)
class Switch:
    """How one backend followed another, as requests noticed it.

    :param at: when the new one was found ready, Unix time
    :param seconds: how long there was none
    :param result: `ok`, `crashed` (the same one came back by itself) or `rolled back` (another one failed)
    """

    at: float
    from_model: str
    to_model: str
    seconds: float
    result: str


class Upstream:
    """Watches the runtime directories of the instances.

    :param instances: the directory that holds one directory an instance
    """

    def __init__(self, instances: Path, queue: FairQueue, incidents: Incidents, poison: Poison) -> None:
        self._instances = instances
        self._queue = queue
        self._incidents = incidents
        self._poison = poison
        self._retired: list[Backend] = []
        self.last: Backend | None = None
        """The last backend that was ready, also after it went away."""
        self.last_switch: Switch | None = None
        self.lost_at: float | None = time.time()
        """Since when there is none, Unix time."""
        self._looking = asyncio.Lock()

    @property
    def backend(self) -> Backend | None:
        """The backend that gets the requests now."""
        return self._queue.backend

    @property
    def running(self) -> int:
        """Requests that are in a backend, also in one that is on its way out."""
        return sum(backend.running for backend in {*self._retired, *([self.backend] if self.backend else [])})

    @property
    def coming(self) -> str | None:
        """The model that is on its way."""
        return self._queue.loading.name if self._queue.loading else None

    def expects(self, model: str | None) -> str | None:
        """The real name of the model that a request names, if that is loaded, on its way or just away."""
        if model in (None, "", "current"):
            return None
        if self.last is not None and self.last.answers_to(model):
            return self.last.name
        return model if model == self.coming else None

    async def scan(self) -> None:
        """Looks who is ready, for whoever must know what systemd has done by now."""
        async with self._looking:
            await self._look()

    async def _look(self) -> None:
        ready, coming = ready_instances(self._instances)
        self._queue.see_loading(coming)
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
            self._found(backend)

    def _found(self, backend: Backend) -> None:
        for old in self._retired:
            if old.identity == backend.identity:
                # it only lost a connection: what still runs in it takes its slots
                self._retired.remove(old)
                backend.close()
                backend = old
                break
        self._poison.resolve()
        if self.last and self.lost_at and self.last.identity != backend.identity:
            self.last_switch = self._switch(self.last, backend, self.lost_at)
        self.last, self.lost_at = backend, None
        self._queue.set_backend(backend)
        _log.info("model %s is ready: %d at once, context %s", backend.name, backend.slots, backend.context)

    def _switch(self, old: Backend, new: Backend, lost_at: float) -> Switch:
        result = "ok"
        if self._incidents.rolled_back_since(new.name, lost_at):
            result = "rolled back"
        elif new.name == old.name and self._incidents.crashed_since(new.name, lost_at):
            result = "crashed"
        now = time.time()
        return Switch(now, old.name, new.name, round(max(0.0, now - lost_at), 3), result)

    def lost(self, backend: Backend) -> None:
        """The backend does not answer, or is no longer the one: requests are held until one is found."""
        if self._queue.backend is backend:
            self._queue.set_backend(None)
            self.lost_at = time.time()
            self._retired.append(backend)
            _log.info("model %s is gone, requests are held", backend.name)

    async def run(self) -> None:
        """Scans for ever; to be run as a task."""
        while True:
            await self.scan()
            for backend in [b for b in self._retired if not b.running and not b.counting]:
                self._retired.remove(backend)
                backend.close()
            await asyncio.sleep(_SCAN_SECONDS)

    def close(self) -> None:
        """Closes the connections to all backends."""
        for backend in [*self._retired, *([self.backend] if self.backend else [])]:
            backend.close()
