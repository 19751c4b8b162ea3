"""Requests over a limit: a client that sends them in a loop fills neither the ledger nor the journal.

Each of the first ones of a minute is told of like any other request; of the rest only their number.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from llmsvc.proxy.buckets import Buckets
from llmsvc.proxy.participants import Participant

_log = logging.getLogger(__name__)

A_MINUTE = 60
"""Refused requests of one participant that have a row and an entry in the journal each minute."""

_MOST_PARTICIPANTS = 10_000
_REPEAT_WARNING_SECONDS = 60.0


class Refusals:
    """Counts refused requests by participant."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets = Buckets(A_MINUTE, A_MINUTE / 60, _MOST_PARTICIPANTS, clock)
        self._silenced = 0
        self._warned = -_REPEAT_WARNING_SECONDS

    def are_told(self, who: Participant) -> bool:
        """Whether this refused request of theirs has a row and an entry in the journal."""
        if not self._buckets.take(who.key):
            return True
        self._silenced += 1
        now = self._clock()
        if now - self._warned >= _REPEAT_WARNING_SECONDS:
            _log.warning(
                "many requests over a limit, %d refused without a row, the last of %s",
                self._silenced,
                who.record.username,
            )
            self._warned, self._silenced = now, 0
        return False
