"""The fair queue in front of the model: round robin over users, first come first served within one.

Somebody with 50 waiting requests delays the single request of another by at most one of them.
"""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections import OrderedDict, deque
from collections.abc import Hashable

from llmsvc.proxy.backends import Backend
from llmsvc.proxy.errors import ApiError, unavailable

_SWEEP_SECONDS = 0.25


@dataclasses.dataclass(eq=False, slots=True)
class _Waiter:
    turn: asyncio.Future[Backend]
    since: float
    deadline: float


class FairQueue:
    """Hands out the slots of the backend that is ready; while none is, everybody is held.

    :param per_user: requests of one user that may wait
    :param total: requests that may wait in all
    :param hold_seconds: longest wait for a backend to become ready
    """

    def __init__(self, per_user: int, total: int, hold_seconds: float) -> None:
        self.per_user = per_user
        self.total = total
        self.hold_seconds = hold_seconds
        self.backend: Backend | None = None
        self.waiting = 0
        self._without_backend_since = time.monotonic()
        self._users: OrderedDict[Hashable, deque[_Waiter]] = OrderedDict()

    def set_backend(self, backend: Backend | None) -> None:
        """From now on turns are for this backend. What runs on the one before is not touched."""
        if self.backend is not None and backend is None:
            self._without_backend_since = time.monotonic()
        self.backend = backend
        self._dispatch()

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

    async def acquire(self, user: Hashable, deadline: float, *, first: bool = False) -> Backend:
        """Waits for this user's turn and takes a slot of the backend, to be given back with release().

        :param deadline: time.monotonic() at which waiting ends
        :param first: before all others; for a request that had its turn and lost its backend
        :raises ApiError: 503, the deadline passed, or no backend became ready in time
        """
        backend = self.backend
        if not self.waiting and backend is not None and backend.running < backend.slots:
            backend.running += 1
            return backend
        waiter = _Waiter(asyncio.get_running_loop().create_future(), time.monotonic(), deadline)
        queue = self._users.setdefault(user, deque())
        if first:
            queue.appendleft(waiter)
            self._users.move_to_end(user, last=False)
        else:
            queue.append(waiter)
        self.waiting += 1
        try:
            return await waiter.turn
        except asyncio.CancelledError:
            if waiter.turn.done() and not waiter.turn.cancelled():
                # the turn and the cancel came in the same moment
                if waiter.turn.exception() is None:
                    self.release(waiter.turn.result())
            else:
                self._remove(user, waiter)
            raise

    def release(self, backend: Backend) -> None:
        """Gives a slot back."""
        backend.running -= 1
        self._dispatch()

    async def sweep(self) -> None:
        """Ends for ever the waits that took too long; to be run as a task."""
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            now = time.monotonic()
            for user, queue in list(self._users.items()):
                for waiter in list(queue):
                    error = self._overdue(waiter, now)
                    if error is not None:
                        self._remove(user, waiter)
                        if not waiter.turn.done():
                            waiter.turn.set_exception(error)

    def _overdue(self, waiter: _Waiter, now: float) -> ApiError | None:
        if self.backend is None:
            since = max(waiter.since, self._without_backend_since)
            if now - since >= self.hold_seconds:
                return unavailable("No model is ready.", "model_not_ready", state="timeout", retry_after=10)
        if now >= waiter.deadline:
            return unavailable("The model was busy for too long.", "queue_timeout", state="timeout")
        return None

    def _dispatch(self) -> None:
        backend = self.backend
        while backend is not None and self._users and backend.running < backend.slots:
            user, queue = next(iter(self._users.items()))
            waiter = queue.popleft()
            self.waiting -= 1
            if queue:
                self._users.move_to_end(user)
            else:
                del self._users[user]
            if not waiter.turn.done():
                backend.running += 1
                waiter.turn.set_result(backend)

    def _remove(self, user: Hashable, waiter: _Waiter) -> None:
        queue = self._users.get(user)
        if queue is not None and waiter in queue:
            queue.remove(waiter)
            self.waiting -= 1
            if not queue:
                del self._users[user]
