"""Wrong keys: an address that sends many of them hears 429 for a while, and fills no journal.

A valid key from the same address works on at full speed: users behind one router do not pay for a neighbour.
Guessing is hopeless either way (256 random bits); this is against scripts that try, and typos in a loop.
"""

from __future__ import annotations

import ipaddress
import logging
import math
import time
from collections.abc import Callable

from starlette.types import Scope

from llmsvc.proxy.buckets import Buckets
from llmsvc.proxy.errors import ApiError
from llmsvc.proxy.tally import client_address

_log = logging.getLogger(__name__)

A_MINUTE = 20
"""Wrong keys of one address that are answered with 401 in a minute."""

_OF_KEYS = (b"authorization", b"x-api-key")
_MOST_ADDRESSES = 10_000
_REPEAT_WARNING_SECONDS = 60.0


class Guesses:
    """Counts wrong keys by address; IPv6 by /64, of which everybody has 2^64 addresses."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._buckets = Buckets(A_MINUTE, A_MINUTE / 60, _MOST_ADDRESSES, clock)
        self._silenced = 0
        self._warned = -_REPEAT_WARNING_SECONDS

    def judge(self, scope: Scope, error: ApiError) -> ApiError:
        """What to answer to a request whose key was refused with this error: the error itself, or 429."""
        if error.status != 401 or all(name not in _OF_KEYS for name, _ in scope["headers"]):
            return error  # who shows no key guesses none
        address = client_address(scope)
        wait = self._buckets.take(_network(address))
        if not wait:
            return error
        self._warn(address)
        return ApiError(
            429,
            "Too many requests with wrong API keys came from your address.",
            kind="requests",
            code="too_many_wrong_keys",
            state="rejected_guess",
            headers=[(b"retry-after", b"%d" % math.ceil(wait))],
        )

    def _warn(self, address: str | None) -> None:
        """These have no entries of their own in the journal; one a minute tells of them."""
        self._silenced += 1
        now = self._clock()
        if now - self._warned >= _REPEAT_WARNING_SECONDS:
            _log.warning(
                "many wrong API keys, %d refused with 429, the last from %s", self._silenced, address
            )
            self._warned = now
            self._silenced = 0


def _network(address: str | None) -> str | None:
    if address is None or ":" not in address:
        return address
    return str(ipaddress.ip_network((address, 64), strict=False))
