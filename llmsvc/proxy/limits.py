"""How many requests a user may send: an exact sliding window per user that outlives a restart."""

from __future__ import annotations

import json
import logging
import math
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path

from llmsvc import atomic
from llmsvc.proxy.errors import ApiError, Headers

_log = logging.getLogger(__name__)


class Window:
    """The requests of every user within the last `seconds`.

    :param limit: requests per window for a user without an override
    :param clock: monotonic seconds
    """

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self.limit = limit
        self.seconds = seconds
        self._clock = clock
        self._hits: dict[int, deque[float]] = {}

    def take(self, user: int, override: int | None) -> float:
        """Counts one request and returns its place, for give_back().

        :raises ApiError: 429 with the exact time after which the next request will be accepted
        """
        limit = self.limit if override is None else override
        now = self._clock()
        hits = self._current(user, now)
        if len(hits) >= limit:
            # with a limit that was lowered meanwhile, more than one has to leave the window first
            wait = hits[len(hits) - limit] + self.seconds - now
            raise ApiError(
                429,
                f"Rate limit of {limit} requests per {self.seconds:g} s reached. Try again in {wait:.3f} s.",
                kind="requests",
                code="rate_limit_exceeded",
                state="rejected_limit",
                headers=[
                    (b"retry-after", b"%d" % max(1, math.ceil(wait))),
                    (b"retry-after-ms", b"%d" % math.ceil(wait * 1000)),
                ],
            )
        hits.append(now)
        return now

    def give_back(self, user: int, place: float) -> None:
        """Takes a request out of the window again: its client left before its turn came."""
        hits = self._hits.get(user)
        if hits is not None and place in hits:
            hits.remove(place)

    def headers(self, user: int, override: int | None) -> Headers:
        """The x-ratelimit headers as OpenAI names them; `reset` is when the whole window is free again."""
        limit = self.limit if override is None else override
        now = self._clock()
        hits = self._current(user, now)
        reset = hits[-1] + self.seconds - now if hits else 0.0
        return [
            (b"x-ratelimit-limit-requests", b"%d" % limit),
            (b"x-ratelimit-remaining-requests", b"%d" % max(0, limit - len(hits))),
            (b"x-ratelimit-reset-requests", _duration(reset)),
        ]

    def _current(self, user: int, now: float) -> deque[float]:
        hits = self._hits.get(user)
        if hits is None:
            hits = self._hits[user] = deque()
        start = now - self.seconds
        while hits and hits[0] <= start:
            hits.popleft()
        return hits

    def dump(self) -> dict[str, object]:
        """The windows as JSON-able data: ages in seconds at the wall-clock time `at`."""
        now = self._clock()
        users = {}
        for user in list(self._hits):
            hits = self._current(user, now)
            if hits:
                users[str(user)] = [round(now - hit, 3) for hit in hits]
            else:
                del self._hits[user]
        return {"at": time.time(), "users": users}

    def restore(self, dump: dict[str, object]) -> None:
        """Takes over what dump() gave, in this or an earlier process.

        :raises ValueError, TypeError, KeyError: that is no dump
        """
        # a clock that was set back must not lengthen the window
        passed = max(0.0, time.time() - float(dump["at"]))  # type: ignore[arg-type]
        now = self._clock()
        for user, ages in dict(dump["users"]).items():  # type: ignore[call-overload]
            self._hits[int(user)] = deque(now - passed - float(age) for age in ages)


def load(window: Window, file: Path) -> None:
    """Restores the window from its state file; a missing or damaged one leaves it empty."""
    try:
        window.restore(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError):
        return


def save(dump: dict[str, object], file: Path) -> None:
    """Writes what Window.dump() gave, atomically. A full disk is no reason to stop serving."""
    try:
        atomic.write(file, json.dumps(dump), 0o600, sync=False)
    except OSError as error:
        _log.warning("the rate limits cannot be saved for a restart: %s", error)


def _duration(seconds: float) -> bytes:
    """`1.5s` or `6m0s`: the form of OpenAI's reset headers."""
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".").encode() + b"s"
    return b"%dm%ds" % divmod(math.ceil(seconds), 60)
