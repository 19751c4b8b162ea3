"""Which of the server's slots a request gets: one that still holds the beginning of its prompt, if it may.

A slot keeps the keys and values of its last request. A conversation that comes back to its slot is answered
without reading all of it again, also when others asked in between.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable

_PIECE = 256
_MOST_PIECES = 4096
_LONG = 8
"""Pieces of a prompt that others had better not wait for."""


@dataclasses.dataclass
class Slot:
    """One slot and what its last request was."""

    number: int
    busy: bool = False
    user: str | None = None
    prints: tuple[bytes, ...] = ()
    used: int = 0
    own: bool = False
    """Whether what it held was left by the one who has it now, and by nobody else."""
    unread: int = 0
    """Pieces of its prompt that are still to be read, as far as is known."""


class Slots:
    """Hands out the slots of one server.

    :param count: how many there are
    :param per_user: whether what one user left must not help another
    """

    def __init__(self, count: int, *, per_user: bool) -> None:
        self._slots = [Slot(number) for number in range(count)]
        self._per_user = per_user
        self._clock = 0

    def take(self, user: str, prints: tuple[bytes, ...]) -> tuple[Slot, bool]:
        """A free slot, and whether what it holds may be used.

        The server reads prompts in the order of slots. So a slot is the worse, the more somebody has to wait
        for what is read, in pieces of a prompt:

        - this user, for what is not held of the prompt, and all that is still to be read in slots before;
        - whoever comes back for what the slot holds, the less likely the longer nobody did. What others left
          counts like this only: users with one system prompt would else push each other out of their slots;
        - behind a long prompt, half of those who get one of the slots after it.

        Where it is all the same, short prompts get the first slots and long ones the last.
        """
        long = len(prints) > _LONG

        def score(slot: Slot) -> tuple[float, int, int]:
            common = self._common(slot, user, prints)
            lost = (len(slot.prints) - common) / (1 + self._clock - slot.used)
            waits = sum(other.unread for other in self._slots[: slot.number])
            behind = sum(not other.busy for other in self._slots[slot.number + 1 :]) if long else 0
            delay = behind * (len(prints) - common) / 2
            return common - lost - waits - delay, -slot.used, slot.number if long else -slot.number

        best = max((slot for slot in self._slots if not slot.busy), key=score)
        keep = not self._per_user or best.user in (None, user)
        self._clock += 1
        best.unread = len(prints) - self._common(best, user, prints)
        best.own = bool(user) and best.user in (None, user)
        best.busy, best.user, best.prints, best.used = True, user, prints, self._clock
        return best, keep

    def _common(self, slot: Slot, user: str, prints: tuple[bytes, ...]) -> int:
        return _common(slot.prints, prints) if slot.user == user else 0

    def give(self, slot: Slot) -> None:
        """The slot is free again."""
        slot.busy, slot.unread = False, 0


def fingerprints(texts: Iterable[str]) -> tuple[bytes, ...]:
    """What tells two prompts' beginnings apart, piece by piece, without keeping their text."""
    prints: list[bytes] = []
    digest = hashlib.blake2b(digest_size=16)
    for text in texts:
        for at in range(0, max(len(text), 1), _PIECE):
            digest.update(text[at : at + _PIECE].encode("utf-8", "replace"))
            prints.append(digest.copy().digest())
        if len(prints) > _MOST_PIECES:
            break
    return tuple(prints)


def _common(one: tuple[bytes, ...], other: tuple[bytes, ...]) -> int:
    count = 0
    for mine, its in zip(one, other, strict=False):
        if mine != its:
            break
        count += 1
    return count
