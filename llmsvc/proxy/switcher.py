"""Starts and stops models because of requests: the named one, and none after a long silence.

One task does one thing at a time; requests meanwhile wait in the queue. An operator's command comes first:
where no model runs, one is started only if it was stopped from here.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import logging
import math
import re
import time
from collections import Counter
from collections.abc import Callable
from typing import Protocol

from llmsvc.accounts.directory import KeyRecord
from llmsvc.config import Config
from llmsvc.errors import CanceledError, ConflictError, Error
from llmsvc.proxy.autoswitch import RETRY_SECONDS, Rounds
from llmsvc.proxy.backends import Backend
from llmsvc.proxy.errors import model_failed
from llmsvc.proxy.fair_queue import FairQueue
from llmsvc.proxy.installed import Installed
from llmsvc.proxy.turns import Waiter
from llmsvc.proxy.unloaded import Memory, Unloaded
from llmsvc.systemd.journal import Journal

_log = logging.getLogger(__name__)

# what systemd says is done may take a moment until Upstream has seen it
_SEEN_SECONDS = 5.0
_GIVE_WAY_SECONDS = 1.0
_LEAST_SECONDS = 0.001
_MOST_REASON = 300
_STOP_RETRY_SECONDS = 60.0
# a client learns what is wrong with the model, not where it lies
_PATH = re.compile(r"/\S*/")


class _Outcome(enum.Enum):
    READY = enum.auto()
    FAILED = enum.auto()
    CANCELED = enum.auto()
    """An operator's command took its place."""
    BUSY = enum.auto()
    """An operator's command was there first; nothing was done."""


class Manager(Protocol):
    """How models are started and stopped: by systemd, or by a test."""

    async def start(self, model: str, running: str | None) -> None:
        """Starts a model and returns once it is READY.

        :param running: the model that runs now, which it replaces
        :raises CanceledError: another command replaced this one
        :raises ConflictError: another command is at work, or something else runs; nothing was done
        :raises Error: it did not start
        """

    async def stop(self, model: str) -> None:
        """Stops a model and returns once it is gone.

        :raises ConflictError: another command is at work; nothing was done
        :raises Error: it did not stop
        """


class Switcher:
    """Serves those who want a model that is not loaded, and notices that nobody wants any.

    :param memory: which model was stopped for being idle
    """

    def __init__(
        self,
        config: Config,
        queue: FairQueue,
        installed: Installed,
        memory: Memory,
        manager: Manager,
        journal: Journal,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._enabled = config.llama_proxy_autoswitch
        self._idle_seconds = config.llama_idle_unload_seconds
        self._queue = queue
        self._installed = installed
        self._memory = memory
        self._manager = manager
        self._journal = journal
        self._clock = clock
        self._rounds = Rounds(config.llama_proxy_switch_seconds)
        self._seen: str | None = None
        self._no_stop_before = 0.0
        self._changed = asyncio.Event()
        queue.on_change = self._changed.set

    @property
    def loaded(self) -> Backend | Unloaded | None:
        """The model that a request gets now: the one that is ready, or that the request would start again."""
        return self._queue.backend or (None if self._queue.loading else self._memory.model)

    def choices(self, record: KeyRecord) -> list[str]:
        """The models to which this key's requests may switch."""
        names = self._installed.names() if self._enabled and record.may_switch else []
        return [name for name in names if record.models is None or name in record.models]

    def since(self, model: str) -> int:
        """When the settings of a model were last changed, Unix time."""
        return self._installed.since(model)

    def wanted(self, record: KeyRecord, model: str | None) -> str | None:
        """The model for which a request has to wait; None where it goes with whatever is loaded.

        :param model: as the request names it
        :raises ApiError: 503, it failed to start a moment ago
        """
        if not self._enabled or not record.may_switch or model in (None, "", "current"):
            return None
        loaded = self._queue.backend
        if loaded is not None and loaded.answers_to(model):
            return loaded.name
        name = self._installed.find(str(model))
        if name is not None and (refusal := self._rounds.refusal(name, self._clock())):
            seconds, reason = refusal
            raise model_failed(name, reason, math.ceil(seconds))
        return name

    async def run(self) -> None:
        """Works for ever; to be run as a task."""
        while True:
            self._changed.clear()
            seconds = await self._step()
            with contextlib.suppress(asyncio.TimeoutError):
                # a timer fires up to a clock's tick too early: what is left then must not be no time at all
                await asyncio.wait_for(self._changed.wait(), seconds and max(seconds, _LEAST_SECONDS))

    async def _step(self) -> float | None:
        """Does what is due. Returns in how many seconds to look again, None for at the next change."""
        backend = self._queue.backend
        if backend is None:
            self._queue.leave(None)
            return await self._start_again()
        self._note(backend)
        if self._memory.model is not None:
            return await self._stop(backend)  # the process before us had begun to
        waiter = self._rounds.next(self._queue.waiters(), backend.name) if self._enabled else None
        if waiter is None:
            self._queue.leave(None)
            return await self._stop_if_idle(backend)
        seconds = self._rounds.wait(self._clock())
        if seconds > 0:
            self._queue.leave(None)
            return seconds
        self._queue.leave(backend.name)
        if backend.running:
            return None
        await self._switch(backend, waiter)
        return 0.0

    def _note(self, backend: Backend) -> None:
        self._memory.ready(backend)
        if backend.name == self._seen:
            self._rounds.loaded(backend.name, self._clock(), self._clock())
            return
        # what was ready before we started has been there for that long
        age = 0.0 if self._seen else max(0.0, time.time() - backend.created - 1)
        self._seen = backend.name
        self._rounds.loaded(backend.name, self._clock() - age, self._clock())

    async def _switch(self, backend: Backend, waiter: Waiter) -> None:
        model = str(waiter.wants)
        waiting = Counter(
            other.who.record.username for other in self._queue.waiters() if other.wants == backend.name
        )
        told = ", ".join(f"{count} of {user}" for user, count in sorted(waiting.items()))
        self._journal.send(
            f"{waiter.who.record.username}'s request for {model} replaces {backend.name}"
            + (f" (still waiting for {backend.name}: {told})" if told else ""),
            fields={
                "LLM_USER": waiter.who.record.username,
                "LLM_MODEL": model,
                "LLM_REPLACED_MODEL": backend.name,
            },
        )
        self._rounds.tried(self._clock())
        outcome = await self._start(model, waiter.who.record.username, backend.name)
        if outcome is _Outcome.READY:
            await self._until(lambda found: found is not None and found.name != backend.name)
        self._queue.leave(None)
        if outcome is _Outcome.BUSY:
            await asyncio.sleep(_GIVE_WAY_SECONDS)

    async def _start_again(self) -> float | None:
        """Starts a model if requests wait, and only because we stopped it that none runs."""
        unloaded = self._memory.model
        waiter = min(self._queue.waiters(), key=lambda waiter: waiter.since, default=None)
        if unloaded is None or waiter is None:
            return None
        if self._queue.loading is not None:
            return _GIVE_WAY_SECONDS
        model = waiter.wants or unloaded.name
        outcome = await self._start(model, waiter.who.record.username, None)
        if outcome is _Outcome.READY:
            fields = {"LLM_USER": waiter.who.record.username, "LLM_MODEL": model}
            self._journal.send(f"{waiter.who.record.username}'s request started {model}", fields=fields)
            await self._until(lambda found: found is not None)
        elif outcome is _Outcome.BUSY:
            await asyncio.sleep(_GIVE_WAY_SECONDS)
        elif outcome is _Outcome.CANCELED or model == unloaded.name:
            # what runs next is the business of the rollback, or of the operator
            self._memory.forget()
        return 0.0

    async def _start(self, model: str, user: str, running: str | None) -> _Outcome:
        try:
            await self._manager.start(model, running)
        except CanceledError as error:
            _log.info("%s", error)
            return _Outcome.CANCELED
        except ConflictError as error:
            _log.debug("%s", error)
            return _Outcome.BUSY
        except Error as error:
            reason = error.message.partition("\n")[0].removeprefix(f"{model} did not start: ")
            self._journal.send(
                f"{model} did not start for {user}: {reason}; not tried again for {RETRY_SECONDS:g} s",
                priority=4,
                fields={"LLM_USER": user, "LLM_FAILED_MODEL": model, "LLM_MODEL": running},
            )
            reason = _PATH.sub("", reason)[:_MOST_REASON]
            self._rounds.failed(model, reason, self._clock())
            self._queue.refuse(model, model_failed(model, reason, math.ceil(RETRY_SECONDS)))
            return _Outcome.FAILED
        return _Outcome.READY

    async def _until(self, there: Callable[[Backend | None], bool]) -> None:
        """Returns as soon as the queue has seen what systemd says is done."""
        until = self._clock() + _SEEN_SECONDS
        while not there(self._queue.backend) and (seconds := until - self._clock()) > _LEAST_SECONDS:
            self._changed.clear()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), seconds)

    async def _stop_if_idle(self, backend: Backend) -> float | None:
        if not self._idle_seconds:
            return None
        now, idle_since = self._clock(), self._queue.idle_since
        if idle_since is None:
            return float(self._idle_seconds)
        seconds = max(idle_since + self._idle_seconds, self._no_stop_before) - now
        if seconds > 0:
            return seconds
        return await self._stop(backend)

    async def _stop(self, backend: Backend) -> float:
        """Stops the model, for the next request to start it again."""
        self._queue.leave(backend.name)
        try:
            self._memory.remember(backend)
            await self._manager.stop(backend.name)
        except (Error, OSError) as error:
            self._memory.forget()
            self._no_stop_before = self._clock() + _STOP_RETRY_SECONDS
            level = logging.INFO if isinstance(error, ConflictError) else logging.ERROR
            _log.log(level, "%s is idle, but could not be stopped: %s", backend.name, error)
        else:
            self._journal.send(
                f"{backend.name} is stopped: no request for {self._idle_seconds} s; the next one starts it",
                fields={"LLM_MODEL": backend.name},
            )
            await self._until(lambda found: found is not backend)
        self._queue.leave(None)
        return 0.0
