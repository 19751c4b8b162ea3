"""Which model comes next, and when: the rules by which requests switch models, without doing it.

A model that is loaded stays for a time at least. After that, as soon as requests wait for others, the model
comes next whose requests have waited longest; those that were left over when it had its last turn count from
the end of that turn. So every model that is asked for gets its turn before any other gets a second one.
"""

from __future__ import annotations

from collections.abc import Iterable

from llmsvc.proxy.turns import Waiter

RETRY_SECONDS = 60.0
"""For how long a model that did not start is not tried again."""


class Rounds:
    """The order of the models. All times are those of one clock.

    :param seconds: how long a model stays at least
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._loaded: str | None = None
        self._not_before = 0.0
        self._ended: dict[str, float] = {}
        self._failed: dict[str, tuple[float, str]] = {}

    def loaded(self, model: str, since: float, now: float) -> None:
        """Tells which model is ready; to be repeated while it is."""
        self._failed.pop(model, None)
        if model != self._loaded:
            if self._loaded is not None:
                self._ended[self._loaded] = now
            self._loaded = model
            self._not_before = since + self._seconds

    def next(self, waiters: Iterable[Waiter], loaded: str) -> Waiter | None:
        """The request that waits longest for the model that is next; None where nobody wants another one."""
        oldest: dict[str, Waiter] = {}
        for waiter in waiters:
            if waiter.wants not in (None, loaded):
                known = oldest.setdefault(waiter.wants, waiter)
                if waiter.since < known.since:
                    oldest[waiter.wants] = waiter
        return min(oldest.values(), key=self._waits_since, default=None)

    def _waits_since(self, waiter: Waiter) -> float:
        assert waiter.wants is not None
        return max(waiter.since, self._ended.get(waiter.wants, waiter.since))

    def wait(self, now: float) -> float:
        """For how many seconds the loaded model stays in any case."""
        return self._not_before - now

    def tried(self, now: float) -> None:
        """A switch begins: whatever comes of it, the next one is not before the time has passed again."""
        self._not_before = max(self._not_before, now + self._seconds)

    def failed(self, model: str, reason: str, now: float) -> None:
        """The model did not start."""
        self._failed[model] = (now + RETRY_SECONDS, reason)

    def refusal(self, model: str, now: float) -> tuple[float, str] | None:
        """For how many seconds the model is not tried again, and why it failed; None if it may be tried."""
        until, reason = self._failed.get(model, (now, ""))
        if until <= now:
            self._failed.pop(model, None)
            return None
        return until - now, reason
