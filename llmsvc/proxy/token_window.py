"""How many tokens a participant may use: reserved before the model begins, counted exactly afterwards."""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable

# What was spent within one part of so many (a minute of a day) counts as spent at its end: bounded memory, on
# the safe side
_PARTS = 1440


class TokenWindow:
    """The tokens of every participant within the last `seconds`, and those that running requests may take.

    :param clock: monotonic seconds
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.seconds = seconds
        self._clock = clock
        self._spent: dict[str, deque[tuple[float, float, int]]] = {}
        """Of each part: when it began, its last use, its tokens."""
        self._sums: Counter[str] = Counter()
        self._reserved: Counter[str] = Counter()

    def spent(self, key: str) -> int:
        """Tokens that were spent within the window."""
        parts = self._spent.get(key)
        if parts is None:
            return 0
        start = self._clock() - self.seconds
        while parts and parts[0][1] <= start:
            self._sums[key] -= parts.popleft()[2]
        if not parts:
            del self._spent[key], self._sums[key]
        return self._sums[key]

    def reserved(self, key: str) -> int:
        """Tokens that running requests may take."""
        return self._reserved[key]

    def reserve(self, key: str, tokens: int) -> None:
        """A request may take so many from now on; settle() ends that."""
        self._reserved[key] += tokens

    def settle(self, key: str, reserved: int, used: int) -> None:
        """The request that had reserved so many has used so many."""
        self._reserved[key] -= reserved
        if not self._reserved[key]:
            del self._reserved[key]
        if used:
            self._add(key, used)

    def wait(self, key: str, limit: int, tokens: int = 1) -> float:
        """Seconds until so many tokens are left of the limit, if no more are spent; 0 for now."""
        excess = self.spent(key) + tokens - limit
        if excess <= 0:
            return 0.0
        until = now = self._clock()
        for _, last, count in self._spent.get(key, ()):
            until = last + self.seconds
            excess -= count
            if excess <= 0:
                break
        return until - now

    def _add(self, key: str, tokens: int) -> None:
        now = self._clock()
        parts = self._spent.setdefault(key, deque())
        if parts and now - parts[-1][0] < self.seconds / _PARTS:
            began, _, count = parts.pop()
            parts.append((began, now, count + tokens))
        else:
            parts.append((now, now, tokens))
        self._sums[key] += tokens

    def dump(self) -> dict[str, list[tuple[float, float, int]]]:
        """The parts of every participant, with ages in seconds in place of times."""
        now = self._clock()
        return {
            key: [(round(now - began, 3), round(now - last, 3), count) for began, last, count in parts]
            for key in list(self._spent)
            if self.spent(key) and (parts := self._spent[key])
        }

    def restore(self, dumped: dict[str, list[tuple[float, float, int]]], passed: float) -> None:
        """Takes over what dump() gave, `passed` seconds ago.

        :raises ValueError, TypeError, AttributeError: that is no dump
        """
        then = self._clock() - passed
        for key, parts in dumped.items():
            restored = [(then - float(began), then - float(last), int(count)) for began, last, count in parts]
            self._spent[str(key)] = deque(restored)
            self._sums[str(key)] = sum(count for _, _, count in restored)
