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

        What it holds of this user's prompt counts for it, and what would be lost counts against it, the less
        the longer nobody came back for it. What others left counts as lost only: users with one system prompt
        would else push each other out of their slots.

        Where it is all the same, short prompts get the first slots and long ones the last: the server reads
        prompts in the order of slots.
        """
        order = 1 if len(prints) > _LONG else -1

        def score(slot: Slot) -> tuple[float, int, int]:
            common = _common(slot.prints, prints) if slot.user == user else 0
            lost = (len(slot.prints) - common) / (1 + self._clock - slot.used)
            return common - lost, -slot.used, order * slot.number

        best = max((slot for slot in self._slots if not slot.busy), key=score)
        keep = not self._per_user or best.user in (None, user)
        self._clock += 1
        best.own = bool(user) and best.user in (None, user)
        best.busy, best.user, best.prints, best.used = True, user, prints, self._clock
        return best, keep

    def give(self, slot: Slot) -> None:
        """The slot is free again."""
        slot.busy = False


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
