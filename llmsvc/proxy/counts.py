"""Requests that only count tokens: they take no slot, but a processor, so each participant has one at a time.

A backend counts beside whatever it generates, a few at once, as they come. With one of each participant's
there, nobody's many delay another's by more than one each.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator

from llmsvc.proxy.errors import too_many_waiting
from llmsvc.proxy.participants import Participant

_MOST_BYTES_PER_USER = 64 * 1024 * 1024


@dataclasses.dataclass(slots=True)
class _Line:
    """The counts of one participant, the one that runs included."""

    lock: asyncio.Lock = dataclasses.field(default_factory=asyncio.Lock)
    count: int = 0
    bytes: int = 0


class Counts:
    """Whose turn to count it is.

    :param per_user: requests of one participant that may wait
    """

    def __init__(self, per_user: int) -> None:
        self._per_user = per_user
        self._lines: dict[str, _Line] = {}

    @contextlib.asynccontextmanager
    async def turn(self, who: Participant, size: int) -> AsyncIterator[None]:
        """Waits until no other count of this participant runs.

        :param size: bytes of the request's body
        :raises ApiError: 429, too many wait
        """
        line = self._lines.get(who.key) or _Line()
        if line.count and (line.count > self._per_user or line.bytes + size > _MOST_BYTES_PER_USER):
            raise too_many_waiting(
                f"You have {line.count - 1} requests waiting already that count tokens; wait for them."
            )
        self._lines[who.key] = line
        line.count += 1
        line.bytes += size
        try:
            async with line.lock:
                yield
        finally:
            line.count -= 1
            line.bytes -= size
            if not line.count:
                del self._lines[who.key]
