"""The fair queue in front of the model: requests wait for their turn on a slot, and for a model to be ready.

Turns are fair (see turns.py): somebody with 50 waiting requests delays the single request of another by at
most one of them. A request may want one model alone: then it waits until that one is loaded, and lets those
behind it pass.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator

from llmsvc.proxy.backends import Backend, Loading, Usage
from llmsvc.proxy.errors import ApiError, too_many_waiting, unavailable
from llmsvc.proxy.participants import Participant
from llmsvc.proxy.turns import Turns, Waiter

_SWEEP_SECONDS = 0.25
# below the 300 s after which many clients and front ends give up
_MOST_HELD_SECONDS = 290.0
_MOVING_SECONDS = 30.0
_SHARE_OF_THE_LAST = 0.1
# many small requests may wait, but not as many of the largest: they would take all memory of a small machine
_MOST_BYTES = 512 * 1024 * 1024
_MOST_BYTES_PER_USER = 64 * 1024 * 1024


class FairQueue:
    """Hands out the slots of the backend that is ready; while none is, everybody is held.

    :param per_user: requests of one participant that may wait
    :param total: requests that may wait in all
    :param hold_seconds: longest wait for a backend to become ready; longer while a load moves, but not if 0
    """

    def __init__(
        self,
        per_user: int,
        total: int,
        hold_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self.per_user = per_user
        self.total = total
        self.hold_seconds = hold_seconds
        self.backend: Backend | None = None
        self._turns = Turns()
        self.loading: Loading | None = None
        """The model that is on its way."""
        self.leaving: str | None = None
        """The model that is about to be stopped: no request goes there any more."""
        self.on_change: Callable[[], None] = _nothing
        """Called as a backend comes or goes, as one that is leaving becomes free, and as somebody begins or
        ends to wait for something else than the backend that is ready."""
        self._used = self._clock()
        self._without_backend_since = self._clock()
        self._outages = 0.0
        self._moved = -_MOVING_SECONDS
        self._seconds: float | None = None
        """How long a request had its slot of late, on average."""

    def set_backend(self, backend: Backend | None) -> None:
        """From now on turns are for this backend. What runs on the one before is not touched."""
        if self.backend is not None and backend is None:
            self._without_backend_since = self._clock()
        if self.backend is None and backend is not None:
            self._outages = self.outage_seconds()
            self._moved = -_MOVING_SECONDS
        self.backend = backend
        self._used = self._clock()
        self._dispatch()
        self.on_change()

    def leave(self, model: str | None) -> None:
        """Gives this model no more requests, for it is about to be stopped; None: all get theirs again."""
        if model != self.leaving:
            self.leaving = model
            self._dispatch()

    @property
    def idle_since(self) -> float | None:
        """Since when (of the clock) nothing runs and nothing waits; None while something does."""
        backend = self.backend
        busy = self.waiting or (backend is not None and (backend.running or backend.counting))
        return None if busy else self._used

    @property
    def waiting(self) -> int:
        """How many requests wait."""
        return self._turns.waiting

    def waiters(self) -> Iterator[Waiter]:
        """All that wait, in no order."""
        return iter(self._turns)

    def turns(self) -> list[Waiter]:
        """All that wait, in the order in which their turns come as things are now."""
        return self._turns.in_order()

    def others_wait(self, who: Participant) -> bool:
        """Whether anybody but this participant waits."""
        return self._turns.others_wait(who)

    def expected_seconds(self, position: int) -> float | None:
        """How long the wait at this place takes, if requests last as of late; None if that is not known."""
        if self._seconds is None or self.backend is None:
            return None
        return round(self._seconds * position / self.backend.slots, 1)

    def refuse(self, model: str, error: ApiError) -> None:
        """Ends the waits of those who want this model and no other."""
        for waiter in [waiter for waiter in self.waiters() if waiter.wants == model]:
            self._end(waiter, error)

    def see_loading(self, loading: Loading | None) -> None:
        """What is on its way now, if anything; while it moves, requests are held longer."""
        if loading is not None and loading != self.loading:
            self._moved = self._clock()
        self.loading = loading

    def outage_seconds(self) -> float:
        """How long there was no backend, all in all."""
        return self._outages + (0.0 if self.backend else self._clock() - self._without_backend_since)

    def check(self, who: Participant, size: int = 0, *, needs_slot: bool = True) -> None:
        """Refuses a request for which the queue has no room.

        :param size: bytes of its body
        :param needs_slot: see Waiter
        :raises ApiError: 429, its participant has too many there; 503, all have
        """
        backend = self.backend
        free = backend is not None and not self.waiting and backend.running < backend.slots
        if free or (backend is not None and not needs_slot):
            return
        line = self._turns.line(who)
        if line is not None and (
            len(line.waiters) >= self.per_user or line.bytes + size > _MOST_BYTES_PER_USER
        ):
            raise too_many_waiting(
                f"You have {len(line.waiters)} requests waiting already; wait for some of them."
            )
        if self.waiting >= self.total or (self.waiting and self._turns.bytes + size > _MOST_BYTES):
            raise unavailable("Too many requests are waiting.", "queue_full", state="rejected_queue")

    async def acquire(self, waiter: Waiter) -> Backend:
        """Waits for a request's turn and takes a slot of the backend, to be given back with release().

        One that needs none gets the backend as soon as that is ready.

        :raises ApiError: 503, the deadline passed, or no backend became ready in time; or 429, its tokens are
            used up
        """
        backend = self.backend
        if backend is not None and not waiter.needs_slot and self._serves(backend, waiter.wants):
            backend.counting += 1
            return backend
        free = backend is not None and not self.waiting and self._may_have(backend, waiter.wants)
        if backend is not None and free and _may_start(waiter):
            if waiter.budget is not None:
                waiter.budget.take()
            backend.running += 1
            self._turns.begin(waiter.who)
            return backend
        waiter.turn = asyncio.get_running_loop().create_future()
        waiter.since = self._clock()
        waiter.held_from = self.outage_seconds() - waiter.held
        waiter.position = self._turns.place(waiter)
        self._turns.add(waiter)
        self._dispatch()
        self._tell(waiter)
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                # the turn and the cancel came in the same moment
                if waiter.turn.exception() is None:
                    if waiter.budget is not None:
                        waiter.budget.settle(Usage())
                    self.release(waiter.turn.result(), waiter.who, needs_slot=waiter.needs_slot)
            else:
                self._remove(waiter)
            raise

    def release(
        self, backend: Backend, who: Participant, seconds: float | None = None, *, needs_slot: bool = True
    ) -> None:
        """Gives a slot back.

        :param seconds: how long the request had it
        :param needs_slot: see Waiter
        """
        if not needs_slot:
            backend.counting -= 1
            self._used = self._clock()
            return
        backend.running -= 1
        self._turns.end(who)
        if seconds is not None:
            average = seconds if self._seconds is None else self._seconds
            self._seconds = average + (seconds - average) * _SHARE_OF_THE_LAST
        self._used = self._clock()
        self._dispatch()
        if self.leaving is not None:
            self.on_change()

    async def sweep(self) -> None:
        """Ends for ever the waits that took too long; to be run as a task."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = self._clock()
            for waiter in list(self.waiters()):
                error = self._overdue(waiter, now)
                if error is not None:
                    self._end(waiter, error)

    def _overdue(self, waiter: Waiter, now: float) -> ApiError | None:
        if self.backend is None:
            outage = now - max(waiter.since, self._without_backend_since)
            moving = self.hold_seconds > 0 and now - self._moved < _MOVING_SECONDS
            held = self.outage_seconds() - waiter.held_from
            if (outage >= self.hold_seconds and not moving) or held >= _MOST_HELD_SECONDS:
                what = f"No model is ready; {self.loading}." if self.loading else "No model is ready."
                return unavailable(what, "model_not_ready", state="timeout", retry_after=10)
        if now >= waiter.deadline:
            return unavailable("The model was busy for too long.", "queue_timeout", state="timeout")
        return None

    def _serves(self, backend: Backend, wants: str | None) -> bool:
        return backend.name != self.leaving and wants in (None, backend.name)

    def _may_have(self, backend: Backend, wants: str | None) -> bool:
        return backend.running < backend.slots and self._serves(backend, wants)

    def _pass_slotless(self, backend: Backend) -> None:
        """Those that need no slot wait for no turn."""
        for waiter in [found for found in self.waiters() if not found.needs_slot]:
            if self._serves(backend, waiter.wants):
                self._remove(waiter)
                if waiter.turn is not None and not waiter.turn.done():
                    backend.counting += 1
                    waiter.turn.set_result(backend)

    def _dispatch(self) -> None:
        backend = self.backend
        if backend is not None and self._turns.slotless:
            self._pass_slotless(backend)
        while backend is not None and (waiter := self._next(backend)) is not None:
            tag = self._turns.call(waiter)
            self._gone(waiter)
            if waiter.turn is None or waiter.turn.done():
                continue
            try:
                # at once, so that the next one is asked with these tokens gone
                if waiter.budget is not None:
                    waiter.budget.take()
            except ApiError as error:
                waiter.turn.set_exception(error)
                continue
            backend.running += 1
            self._turns.begin(waiter.who, tag)
            waiter.turn.set_result(backend)

    def _next(self, backend: Backend) -> Waiter | None:
        """The request whose turn it is on a free slot."""
        return self._turns.next(backend.name, _may_start) if self._may_have(backend, None) else None

    def _end(self, waiter: Waiter, error: ApiError) -> None:
        self._remove(waiter)
        if waiter.turn is not None and not waiter.turn.done():
            waiter.turn.set_exception(error)

    def _remove(self, waiter: Waiter) -> None:
        if self._turns.remove(waiter):
            self._gone(waiter)

    def _gone(self, waiter: Waiter) -> None:
        self._used = self._clock()
        self._tell(waiter)

    def _tell(self, waiter: Waiter) -> None:
        # not for those whose turn just comes, of whom there may be thousands a second
        if self.backend is None or waiter.wants not in (None, self.backend.name):
            self.on_change()


def _may_start(waiter: Waiter) -> bool:
    return waiter.budget is None or waiter.budget.may_start()


def _nothing() -> None:
    pass
