"""The fair queue in front of the model: round robin over users, first come first served within one.

Somebody with 50 waiting requests delays the single request of another by at most one of them. A request may
want one model alone: then it waits until that one is loaded, and lets those behind it pass.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Hashable, Iterator

from llmsvc.proxy.backends import Backend, Loading
from llmsvc.proxy.errors import ApiError, unavailable

_SWEEP_SECONDS = 0.25
# below the 300 s after which many clients and front ends give up
_MOST_HELD_SECONDS = 290.0
_MOVING_SECONDS = 30.0


@dataclasses.dataclass(eq=False, slots=True)
class Waiter:
    """A request that waits.

    :param name: the user's name
    :param wants: the one model that it is for, None for whatever is loaded
    """

    user: Hashable
    name: str
    wants: str | None
    turn: asyncio.Future[Backend]
    since: float
    deadline: float
    held_from: float


class FairQueue:
    """Hands out the slots of the backend that is ready; while none is, everybody is held.

    :param per_user: requests of one user that may wait
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
        self._users: OrderedDict[Hashable, deque[Waiter]] = OrderedDict()

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
        busy = self.waiting or (self.backend is not None and self.backend.running)
        return None if busy else self._used

    def waiters(self) -> Iterator[Waiter]:
        """All that wait."""
        for queue in self._users.values():
            yield from queue

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

    def check(self, user: Hashable) -> None:
        """:raises ApiError: 429 or 503, the queue has no room for one more request of this user"""
        backend = self.backend
        if not self.waiting and backend is not None and backend.running < backend.slots:
            return
        if len(self._users.get(user, ())) >= self.per_user:
            raise ApiError(
                429,
                f"You have {self.per_user} requests waiting already; wait for some of them.",
                kind="requests",
                code="too_many_waiting",
                state="rejected_queue",
                headers=[(b"retry-after", b"1")],
            )
        if self.waiting >= self.total:
            raise unavailable("Too many requests are waiting.", "queue_full", state="rejected_queue")

    async def acquire(
        self,
        user: Hashable,
        deadline: float,
        *,
        first: bool = False,
        held: float = 0.0,
        wants: str | None = None,
        name: str = "",
    ) -> Backend:
        """Waits for this user's turn and takes a slot of the backend, to be given back with release().

        :param deadline: time of the clock at which waiting ends
        :param first: before all others; for a request that had its turn and lost its backend
        :param held: seconds for which the request has been held in earlier outages
        :param wants: the one model that the request is for
        :param name: the user's name, for people who read why a model was switched
        :raises ApiError: 503, the deadline passed, or no backend became ready in time
        """
        backend = self.backend
        if not self.waiting and backend is not None and self._may_have(backend, wants):
            backend.running += 1
            return backend
        turn = asyncio.get_running_loop().create_future()
        now = self._clock()
        waiter = Waiter(user, name, wants, turn, now, deadline, self.outage_seconds() - held)
        queue = self._users.setdefault(user, deque())
        if first:
            queue.appendleft(waiter)
            self._users.move_to_end(user, last=False)
        else:
            queue.append(waiter)
        self.waiting += 1
        self._dispatch()
        self._tell(waiter)
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                # the turn and the cancel came in the same moment
                if waiter.turn.exception() is None:
                    self.release(waiter.turn.result())
            else:
                self._remove(waiter)
            raise

    def release(self, backend: Backend) -> None:
        """Gives a slot back."""
        backend.running -= 1
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

    def _may_have(self, backend: Backend, wants: str | None) -> bool:
        free = backend.running < backend.slots and backend.name != self.leaving
        return free and wants in (None, backend.name)

    def _dispatch(self) -> None:
        backend = self.backend
        while backend is not None and (waiter := self._next(backend)) is not None:
            self._remove(waiter)
            if waiter.user in self._users:
                self._users.move_to_end(waiter.user)
            if not waiter.turn.done():
                backend.running += 1
                waiter.turn.set_result(backend)

    def _next(self, backend: Backend) -> Waiter | None:
        if not self._may_have(backend, None):
            return None
        fits = (None, backend.name)
        return next((waiter for waiter in self.waiters() if waiter.wants in fits), None)

    def _end(self, waiter: Waiter, error: ApiError) -> None:
        self._remove(waiter)
        if not waiter.turn.done():
            waiter.turn.set_exception(error)

    def _remove(self, waiter: Waiter) -> None:
        queue = self._users.get(waiter.user)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            self.waiting -= 1
            self._used = self._clock()
            if not queue:
                del self._users[waiter.user]
            self._tell(waiter)

    def _tell(self, waiter: Waiter) -> None:
        # not for those whose turn just comes, of whom there may be thousands a second
        if self.backend is None or waiter.wants not in (None, self.backend.name):
            self.on_change()


def _nothing() -> None:
    pass
