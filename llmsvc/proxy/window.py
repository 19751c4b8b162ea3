"""How many requests a participant may send: an exact sliding window for each."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable


class Window:
    """The requests of every participant within the last `seconds`.

    :param clock: monotonic seconds
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._hits: dict[str, deque[float]] = {}

    def take(self, key: str) -> float:
        """Counts one request and returns its place, for give_back()."""
        now = self._clock()
        self._current(key, now).append(now)
        return now

    def give_back(self, key: str, place: float) -> None:
        """Takes a request out of the window again: its client left before its turn came."""
        hits = self._hits.get(key)
        if hits is not None and place in hits:
            hits.remove(place)

    def wait(self, key: str, limit: int) -> float:
        """Seconds until one more request is within the limit; 0 for now."""
        now = self._clock()
        hits = self._current(key, now)
        if len(hits) < limit:
            return 0.0
        # with a limit that was lowered meanwhile, more than one has to leave the window first
        return hits[len(hits) - limit] + self.seconds - now

    def left(self, key: str, limit: int) -> tuple[int, float]:
        """How many requests are left, and the seconds until the whole window is free again."""
        now = self._clock()
        hits = self._current(key, now)
        return max(0, limit - len(hits)), hits[-1] + self.seconds - now if hits else 0.0

    def _current(self, key: str, now: float) -> deque[float]:
        hits = self._hits.get(key)
        if hits is None:
            hits = self._hits[key] = deque()
        start = now - self.seconds
        while hits and hits[0] <= start:
            hits.popleft()
        return hits

    def dump(self) -> dict[str, list[float]]:
        """The ages, in seconds, of every participant's requests; forgets those who have none."""
        now = self._clock()
        dumped = {}
        for key in list(self._hits):
            hits = self._current(key, now)
            if hits:
                dumped[key] = [round(now - hit, 3) for hit in hits]
            else:
                del self._hits[key]
        return dumped

    def restore(self, dumped: dict[str, list[float]], passed: float) -> None:
        """Takes over what dump() gave, `passed` seconds ago.

        :raises ValueError, TypeError, AttributeError: that is no dump
        """
        now = self._clock()
        for key, ages in dumped.items():
            self._hits[str(key)] = deque(now - passed - float(age) for age in ages)
