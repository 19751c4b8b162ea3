"""The fair queue in front of the model: turns by weight over participants, within one as they came.

With equal weights that is round robin: somebody with 50 waiting requests delays the single request of another
by at most one of them. Who has fewer requests running, for the weight, comes first; of equal ones whose turn
comes by start-time fair queueing (Goyal, Vin, Cheng 1996). A request may want one model alone: then it waits
until that one is loaded, and lets those behind it pass.
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator

from llmsvc.proxy.backends import Backend, Loading, Usage
from llmsvc.proxy.budget import Budget
from llmsvc.proxy.errors import ApiError, too_many_waiting, unavailable
from llmsvc.proxy.participants import Participant

_SWEEP_SECONDS = 0.25
# below the 300 s after which many clients and front ends give up
_MOST_HELD_SECONDS = 290.0
_MOVING_SECONDS = 30.0
_SHARE_OF_THE_LAST = 0.1
_MOST_TAGS = 1000
# many small requests may wait, but not as many of the largest: they would take all memory of a small machine
_MOST_BYTES = 512 * 1024 * 1024
_MOST_BYTES_PER_USER = 64 * 1024 * 1024


@dataclasses.dataclass(eq=False, slots=True)
class Waiter:
    """A request that waits, or is about to.

    :param request_id: names it to those who look at the queue
    :param deadline: time of the clock at which waiting ends
    :param size: bytes of its body
    :param wants: the one model that it is for, None for whatever is loaded
    :param budget: its tokens, if they are limited: taken with its turn, which waits until they may be
    :param needs_slot: else it waits for nothing but that a backend is ready
    :param first: before all others; for a request that had its turn and lost its backend
    :param held: seconds for which it has been held in earlier outages
    """

    who: Participant
    request_id: str
    deadline: float
    size: int = 0
    wants: str | None = None
    budget: Budget | None = None
    needs_slot: bool = True
    first: bool = False
    held: float = 0.0
    since: float = 0.0
    """Set by the queue, as is what follows."""
    held_from: float = 0.0
    position: int = 0
    """Its place as it began to wait, 1 for the next; 0 where it had not to."""
    turn: asyncio.Future[Backend] | None = None


@dataclasses.dataclass(slots=True)
class _Line:
    """The waiting requests of one participant.

    :param tag: when its first request's turn comes, in virtual time
    """

    weight: int
    tag: float
    waiters: deque[Waiter]
    bytes: int = 0


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
        self.waiting = 0
        self._slotless = 0
        """Of these, those that need no slot."""
        self._bytes = 0
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
        self._lines: dict[str, _Line] = {}
        self._running: Counter[str] = Counter()
        self._time = 0.0
        """Virtual time: the tag of the last turn."""
        self._tags: dict[str, float] = {}
        """The tags of those who have no line now, where they still matter."""
        self._most_tags = _MOST_TAGS
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

    def waiters(self) -> Iterator[Waiter]:
        """All that wait."""
        for line in self._lines.values():
            yield from line.waiters

    def turns(self) -> list[Waiter]:
        """All that wait, in the order in which their turns come as things are now."""
        tagged = [
            (not waiter.first, line.tag + place / line.weight, number, waiter)
            for number, line in enumerate(self._lines.values())
            for place, waiter in enumerate(line.waiters)
        ]
        return [waiter for *_, waiter in sorted(tagged, key=lambda found: found[:3])]

    def others_wait(self, who: Participant) -> bool:
        """Whether anybody but this participant waits."""
        return len(self._lines) > (who.key in self._lines)

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
        line = self._lines.get(who.key)
        if line is not None and (
            len(line.waiters) >= self.per_user or line.bytes + size > _MOST_BYTES_PER_USER
        ):
            raise too_many_waiting(
                f"You have {len(line.waiters)} requests waiting already; wait for some of them."
            )
        if self.waiting >= self.total or (self.waiting and self._bytes + size > _MOST_BYTES):
            raise unavailable("Too many requests are waiting.", "queue_full", state="rejected_queue")

    async def acquire(self, waiter: Waiter) -> Backend:
        """Waits for a request's turn and takes a slot of the backend, to be given back with release().

        One that needs none gets the backend as soon as that is ready.

        :raises ApiError: 503, the deadline passed, or no backend became ready in time; or 429, its tokens are
            used up
        """
        backend, key = self.backend, waiter.who.key
        if backend is not None and not waiter.needs_slot and self._serves(backend, waiter.wants):
            backend.counting += 1
            return backend
        free = backend is not None and not self.waiting and self._may_have(backend, waiter.wants)
        if backend is not None and free and _may_start(waiter):
            if waiter.budget is not None:
                waiter.budget.take()
            self._take(backend, key, self._tag(key), waiter.who.record.weight)
            return backend
        waiter.turn = asyncio.get_running_loop().create_future()
        waiter.since = self._clock()
        waiter.held_from = self.outage_seconds() - waiter.held
        waiter.position = self._place(waiter)
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = _Line(waiter.who.record.weight, self._tag(key), deque())
        line.weight = waiter.who.record.weight  # an admin may have changed it while others of its waited
        line.waiters.appendleft(waiter) if waiter.first else line.waiters.append(waiter)
        self.waiting += 1
        self._slotless += not waiter.needs_slot
        self._bytes += waiter.size
        line.bytes += waiter.size
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
        self._running[who.key] -= 1
        if not self._running[who.key]:
            del self._running[who.key]
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
        if backend is not None and self._slotless:
            self._pass_slotless(backend)
        while backend is not None and (waiter := self._next(backend)) is not None:
            line = self._lines[waiter.who.key]
            tag = line.tag
            line.tag += 1 / line.weight
            self._remove(waiter)
            if waiter.turn is None or waiter.turn.done():
                continue
            try:
                # at once, so that the next one is asked with these tokens gone
                if waiter.budget is not None:
                    waiter.budget.take()
            except ApiError as error:
                waiter.turn.set_exception(error)
                continue
            self._take(backend, waiter.who.key, tag, line.weight)
            waiter.turn.set_result(backend)

    def _next(self, backend: Backend) -> Waiter | None:
        """The request whose turn it is on a free slot."""
        if not self._may_have(backend, None):
            return None
        best: Waiter | None = None
        best_rank: tuple[bool, float, float] | None = None
        for key, line in self._lines.items():
            waiter = line.waiters[0]
            if waiter.wants is not None and waiter.wants != backend.name:
                found = next((other for other in line.waiters if other.wants in (None, backend.name)), None)
                if found is None:
                    continue
                waiter = found
            rank = (not waiter.first, self._running[key] / line.weight, line.tag)
            if (best_rank is None or rank < best_rank) and _may_start(waiter):
                best, best_rank = waiter, rank
        return best

    def _take(self, backend: Backend, key: str, tag: float, weight: int) -> None:
        backend.running += 1
        self._running[key] += 1
        self._time = max(self._time, tag)
        if key not in self._lines:
            self._tags[key] = tag + 1 / weight
            if len(self._tags) > self._most_tags:
                self._tags = {other: later for other, later in self._tags.items() if later > self._time}
                # they may all matter: then it is long until the next look, or each turn would cost one
                self._most_tags = max(_MOST_TAGS, 2 * len(self._tags))

    def _tag(self, key: str) -> float:
        return max(self._time, self._tags.pop(key, 0.0))

    def _place(self, waiter: Waiter) -> int:
        """Where a new request comes: behind its participant's own, and what is fair of the others'."""
        own = self._lines.get(waiter.who.key)
        turns = 1 if waiter.first or own is None else len(own.waiters) + 1
        rounds = turns / waiter.who.record.weight
        others = (line for line in self._lines.values() if line is not own)
        return turns + sum(min(len(line.waiters), math.floor(rounds * line.weight)) for line in others)

    def _end(self, waiter: Waiter, error: ApiError) -> None:
        self._remove(waiter)
        if waiter.turn is not None and not waiter.turn.done():
            waiter.turn.set_exception(error)

    def _remove(self, waiter: Waiter) -> None:
        line = self._lines.get(waiter.who.key)
        if line is not None and waiter in line.waiters:
            line.waiters.remove(waiter)
            self.waiting -= 1
            self._slotless -= not waiter.needs_slot
            self._bytes -= waiter.size
            line.bytes -= waiter.size
            self._used = self._clock()
            if not line.waiters:
                del self._lines[waiter.who.key]
                self._tags[waiter.who.key] = line.tag
            self._tell(waiter)

    def _tell(self, waiter: Waiter) -> None:
        # not for those whose turn just comes, of whom there may be thousands a second
        if self.backend is None or waiter.wants not in (None, self.backend.name):
            self.on_change()


def _may_start(waiter: Waiter) -> bool:
    return waiter.budget is None or waiter.budget.may_start()


def _nothing() -> None:
    pass
