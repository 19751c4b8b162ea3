"""What a participant may do: requests per window, requests at once, tokens per minute and per day.

The defaults are those of config.env; the row of a user says otherwise. Windows outlive a restart. Tokens are
reserved as a request's turn comes, so that parallel requests cannot overshoot, and settled as it ends.
"""

from __future__ import annotations

import dataclasses
import json
import logging
import math
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from llmsvc import atomic
from llmsvc.config import Config
from llmsvc.proxy.errors import ApiError, Headers, bad_request
from llmsvc.proxy.participants import Participant
from llmsvc.proxy.token_window import TokenWindow
from llmsvc.proxy.window import Window

_log = logging.getLogger(__name__)

_MINUTE, _DAY = 60, 86400


@dataclasses.dataclass(frozen=True, slots=True)
class Grant:
    """Tokens that a request may take, and where they are reserved."""

    tokens: int
    windows: list[TokenWindow]


class Limits:
    """The limits of all participants. Those of hidden users do not exist.

    :param clock: monotonic seconds
    """

    def __init__(self, config: Config, clock: Callable[[], float] = time.monotonic) -> None:
        self._config = config
        self._requests = Window(config.llama_proxy_rate_window_seconds, clock)
        self._minute = TokenWindow(_MINUTE, clock)
        self._day = TokenWindow(_DAY, clock)
        self._open: Counter[str] = Counter()

    def enter(self, who: Participant) -> float | None:
        """Counts a request that has come, until leave(). Returns its place in the window, for give_back().

        :raises ApiError: 429 with the exact time after which the next request will be accepted
        """
        record = who.record
        if record.hidden:
            return None
        most = record.concurrent or self._config.llama_proxy_concurrent
        if most and self._open[who.key] >= most:
            raise _limited(f"You have {most} requests open already; wait for one of them.", 1.0, "requests")
        self._check_tokens(who)
        limit = self._request_limit(who)
        wait = self._requests.wait(who.key, limit)
        if wait > 0:
            raise _limited(
                f"Rate limit of {limit} requests per {self._requests.seconds:g} s reached."
                f" Try again in {wait:.3f} s.",
                wait,
                "requests",
            )
        self._open[who.key] += 1
        return self._requests.take(who.key)

    def leave(self, who: Participant) -> None:
        """A request that had entered has ended."""
        self._open[who.key] -= 1
        if not self._open[who.key]:
            del self._open[who.key]

    def give_back(self, who: Participant, place: float) -> None:
        """Takes a request out of the window again: its client left before its turn came."""
        self._requests.give_back(who.key, place)

    def bounds_tokens(self, who: Participant) -> bool:
        """Whether the tokens of this participant are limited at all."""
        return bool(self._token_limits(who))

    def may_start(self, who: Participant, most: int) -> bool:
        """Whether a request of so many tokens at most need not wait for the participant's others to end."""
        return all(
            not window.reserved(who.key)
            or not 0 < limit - window.spent(who.key) < window.reserved(who.key) + most
            for window, limit in self._token_limits(who)
        )

    def reserve(self, who: Participant, most: int) -> Grant:
        """Grants a request tokens, at most `most`, until settle().

        :raises ApiError: 429, none
        """
        self._check_tokens(who)
        limits = self._token_limits(who)
        granted = min([most, *(self._left(who, window, limit) for window, limit in limits)])
        if granted <= 0:
            raise _limited("Your other requests may take all tokens that are left.", 1.0, "tokens")
        for window, _ in limits:
            window.reserve(who.key, granted)
        return Grant(granted, [window for window, _ in limits])

    def settle(self, who: Participant, grant: Grant, used: int) -> None:
        """The request with this grant has ended, and has used so many tokens."""
        for window in grant.windows:
            window.settle(who.key, grant.tokens, used)

    def too_few_tokens(self, who: Participant, prompt_tokens: int) -> ApiError:
        """The error of a request whose prompt alone takes more tokens than are left."""
        wait = 1.0
        for window, limit in self._token_limits(who):
            if prompt_tokens + 1 > limit:
                return bad_request(
                    f"The prompt has {prompt_tokens} tokens; you may use {limit} {_per(window)}.",
                    code="token_limit_too_low",
                )
            wait = max(wait, window.wait(who.key, limit, prompt_tokens + 1))
        message = f"The prompt has {prompt_tokens} tokens, more than are left. Try again in {wait:.3f} s."
        return _limited(message, wait, "tokens")

    def headers(self, who: Participant) -> Headers:
        """The x-ratelimit headers as OpenAI names them; `reset` is when the whole window is free again."""
        if who.record.hidden:
            return []
        limit = self._request_limit(who)
        left, reset = self._requests.left(who.key, limit)
        headers = [
            (b"x-ratelimit-limit-requests", b"%d" % limit),
            (b"x-ratelimit-remaining-requests", b"%d" % left),
            (b"x-ratelimit-reset-requests", _duration(reset)),
        ]
        if limits := self._token_limits(who):
            # of two windows the one with less left
            window, limit = min(limits, key=lambda found: self._left(who, *found))
            headers += [
                (b"x-ratelimit-limit-tokens", b"%d" % limit),
                (b"x-ratelimit-remaining-tokens", b"%d" % max(0, self._left(who, window, limit))),
                (b"x-ratelimit-reset-tokens", _duration(window.wait(who.key, limit, limit))),
            ]
        return headers

    def _left(self, who: Participant, window: TokenWindow, limit: int) -> int:
        return limit - window.spent(who.key) - window.reserved(who.key)

    def _request_limit(self, who: Participant) -> int:
        return who.record.rate_limit or self._config.llama_proxy_rate_limit

    def _token_limits(self, who: Participant) -> list[tuple[TokenWindow, int]]:
        record, config = who.record, self._config
        per_minute = record.tokens_per_minute or config.llama_proxy_tokens_per_minute
        per_day = record.tokens_per_day or config.llama_proxy_tokens_per_day
        if not (per_minute or per_day) or record.hidden:
            return []
        limits = ((self._minute, per_minute), (self._day, per_day))
        return [(window, limit) for window, limit in limits if limit]

    def _check_tokens(self, who: Participant) -> None:
        for window, limit in self._token_limits(who):
            wait = window.wait(who.key, limit)
            if wait > 0:
                message = f"Limit of {limit} tokens {_per(window)} reached. Try again in {wait:.3f} s."
                raise _limited(message, wait, "tokens")

    def dump(self) -> dict[str, Any]:
        """All windows as JSON-able data."""
        return {
            "at": time.time(),
            "requests": self._requests.dump(),
            "minute": self._minute.dump(),
            "day": self._day.dump(),
        }

    def restore(self, dump: dict[str, Any]) -> None:
        """Takes over what dump() gave, in this or an earlier process.

        :raises ValueError, TypeError, KeyError, AttributeError: that is no dump
        """
        # a clock that was set back must not lengthen the windows
        passed = max(0.0, time.time() - float(dump["at"]))
        for name, window in (("requests", self._requests), ("minute", self._minute), ("day", self._day)):
            window.restore(dump[name], passed)


def load(limits: Limits, file: Path) -> None:
    """Restores the windows from their state file; a missing or damaged one leaves them empty."""
    try:
        limits.restore(json.loads(file.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return


def save(dump: dict[str, Any], file: Path) -> None:
    """Writes what Limits.dump() gave, atomically. A full disk is no reason to stop serving."""
    try:
        atomic.write(file, json.dumps(dump), 0o600, sync=False)
    except OSError as error:
        _log.warning("the rate limits cannot be saved for a restart: %s", error)


def _limited(message: str, wait: float, kind: str) -> ApiError:
    return ApiError(
        429,
        message,
        kind=kind,
        code="rate_limit_exceeded",
        state="rejected_limit",
        headers=[
            (b"retry-after", b"%d" % max(1, math.ceil(wait))),
            (b"retry-after-ms", b"%d" % math.ceil(wait * 1000)),
        ],
    )


def _per(window: TokenWindow) -> str:
    return "per minute" if window.seconds == _MINUTE else "per day"


def _duration(seconds: float) -> bytes:
    """`1.5s`, `6m0s` or `24h0m0s`: the form of OpenAI's reset headers."""
    if seconds < 60:
        return f"{seconds:.3f}".rstrip("0").rstrip(".").encode() + b"s"
    minutes, seconds = divmod(math.ceil(seconds), 60)
    if minutes < 60:
        return b"%dm%ds" % (minutes, seconds)
    return b"%dh%dm%ds" % (*divmod(minutes, 60), seconds)
