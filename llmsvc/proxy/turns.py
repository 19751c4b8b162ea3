"""Whose turn it is: the requests that wait, by weight over their participants, within one as they came.

Of participants with equal weights each has every other turn, or every third, and so on, however many requests
it has waiting. Who has fewer requests running, for the weight, comes first; of equal ones whose turn comes by
start-time fair queueing (Goyal, Vin, Cheng 1996).
"""

from __future__ import annotations

import asyncio
import dataclasses
import math
from collections import Counter, deque
from collections.abc import Callable, Iterator

from llmsvc.proxy.backends import Backend
from llmsvc.proxy.budget import Budget
from llmsvc.proxy.participants import Participant

_MOST_TAGS = 1000


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
class Line:
    """The waiting requests of one participant.

    :param tag: when its first request's turn comes, in virtual time
    """

    weight: int
    tag: float
    waiters: deque[Waiter]
    bytes: int = 0


class Turns:
    """Who waits, who runs, and who is next. It knows nothing of time."""

    def __init__(self) -> None:
        self.waiting = 0
        self.slotless = 0
        """Of these, those that need no slot."""
        self.bytes = 0
        self._lines: dict[str, Line] = {}
        self._running: Counter[str] = Counter()
        self._time = 0.0
        """Virtual time: the tag of the last turn."""
        self._tags: dict[str, float] = {}
        """The tags of those who have no line now, where they still matter."""
        self._most_tags = _MOST_TAGS

    def __iter__(self) -> Iterator[Waiter]:
        """All that wait, in no order."""
        for line in self._lines.values():
            yield from line.waiters

    def in_order(self) -> list[Waiter]:
        """All that wait, in the order in which their turns come as things are now."""
        tagged = [
            (not waiter.first, line.tag + place / line.weight, number, waiter)
            for number, line in enumerate(self._lines.values())
            for place, waiter in enumerate(line.waiters)
        ]
        return [waiter for *_, waiter in sorted(tagged, key=lambda found: found[:3])]

    def line(self, who: Participant) -> Line | None:
        """The participant's requests, if any wait."""
        return self._lines.get(who.key)

    def others_wait(self, who: Participant) -> bool:
        """Whether anybody but this participant waits."""
        return len(self._lines) > (who.key in self._lines)

    def place(self, waiter: Waiter) -> int:
        """Where a new request comes: behind its participant's own, and what is fair of the others'."""
        own = self.line(waiter.who)
        turns = 1 if waiter.first or own is None else len(own.waiters) + 1
        rounds = turns / waiter.who.record.weight
        others = (line for line in self._lines.values() if line is not own)
        return turns + sum(min(len(line.waiters), math.floor(rounds * line.weight)) for line in others)

    def add(self, waiter: Waiter) -> None:
        """It waits from now on."""
        key, weight = waiter.who.key, waiter.who.record.weight
        line = self._lines.get(key)
        if line is None:
            line = self._lines[key] = Line(weight, self._tag(key), deque())
        line.weight = weight  # an admin may have changed it while others of its waited
        line.waiters.appendleft(waiter) if waiter.first else line.waiters.append(waiter)
        self.waiting += 1
        self.slotless += not waiter.needs_slot
        self.bytes += waiter.size
        line.bytes += waiter.size

    def remove(self, waiter: Waiter) -> bool:
        """It waits no more; whether it did."""
        line = self._lines.get(waiter.who.key)
        if line is None or waiter not in line.waiters:
            return False
        line.waiters.remove(waiter)
        self.waiting -= 1
        self.slotless -= not waiter.needs_slot
        self.bytes -= waiter.size
        line.bytes -= waiter.size
        if not line.waiters:
            del self._lines[waiter.who.key]
            self._tags[waiter.who.key] = line.tag
        return True

    def next(self, model: str, may_start: Callable[[Waiter], bool]) -> Waiter | None:
        """The request whose turn it is.

        :param model: those that want another one let the others pass
        :param may_start: asked of those that are first in their line
        """
        best: Waiter | None = None
        best_rank: tuple[bool, float, float] | None = None
        for key, line in self._lines.items():
            waiter = line.waiters[0]
            if waiter.wants is not None and waiter.wants != model:
                found = next((other for other in line.waiters if other.wants in (None, model)), None)
                if found is None:
                    continue
                waiter = found
            rank = (not waiter.first, self._running[key] / line.weight, line.tag)
            if (best_rank is None or rank < best_rank) and may_start(waiter):
                best, best_rank = waiter, rank
        return best

    def call(self, waiter: Waiter) -> float:
        """It waits no more, for its turn has come; returns the tag of that, for begin()."""
        line = self._lines[waiter.who.key]
        tag = line.tag
        line.tag += 1 / line.weight
        self.remove(waiter)
        return tag

    def begin(self, who: Participant, tag: float | None = None) -> None:
        """One of its requests runs from now on.

        :param tag: see call(); None for one that did not wait
        """
        key = who.key
        tag = self._tag(key) if tag is None else tag
        self._running[key] += 1
        self._time = max(self._time, tag)
        if key not in self._lines:
            self._tags[key] = tag + 1 / who.record.weight
            if len(self._tags) > self._most_tags:
                self._tags = {other: later for other, later in self._tags.items() if later > self._time}
                # they may all matter: then it is long until the next look, or each turn would cost one
                self._most_tags = max(_MOST_TAGS, 2 * len(self._tags))

    def end(self, who: Participant) -> None:
        """One of its requests runs no more."""
        self._running[who.key] -= 1
        if not self._running[who.key]:
            del self._running[who.key]

    def _tag(self, key: str) -> float:
        return max(self._time, self._tags.pop(key, 0.0))
