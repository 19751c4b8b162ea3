"""Token buckets, one for each of an unbounded number of askers, in bounded memory."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Hashable


class Buckets:
    """Who has taken how much lately. A bucket holds `burst` at most and gets `rate` a second.

    :param most: buckets that are kept; past it the one that was used least lately is full again
    """

    def __init__(
        self, burst: float, rate: float, most: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._burst = burst
        self._rate = rate
        self._most = most
        self._clock = clock
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._buckets)

    def take(self, who: Hashable) -> float:
        """Takes one out of somebody's bucket; 0.0, or the seconds until there is one again."""
        now = self._clock()
        level, at = self._buckets.pop(who, (self._burst, now))
        level = min(self._burst, level + (now - at) * self._rate)
        wait = 0.0 if level >= 1 else (1 - level) / self._rate
        self._buckets[who] = (level if wait else level - 1, now)
        if len(self._buckets) > self._most:
            self._buckets.popitem(last=False)
        return wait
