"""Poison requests: a body that crashed the model twice is refused, so that nobody can hold the model down.

A request that was in the backend when it went away is a suspect. Once a backend is ready again, it is known
whether the other one crashed, or was only stopped.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import time
from collections import OrderedDict

from llmsvc.proxy.errors import crashes_model
from llmsvc.proxy.incidents import Incidents

_ENOUGH = 2
_REMEMBERED = 1000
_FORGET_SECONDS = 3600.0
# a hung backend is killed after 30 s, and it takes a moment until that is noted
_LATEST_CRASH_SECONDS = 60.0

Fingerprint = tuple[str, bytes]
"""What makes two requests the same: the model, and digest()."""


def digest(path: str, body: bytes) -> bytes:
    """Stands for what was asked."""
    return hashlib.sha256(path.encode() + b"\0" + body).digest()


@dataclasses.dataclass(frozen=True, slots=True)
class _Suspect:
    request: Fingerprint
    sent: float
    lost: float


@dataclasses.dataclass(slots=True)
class _Guilt:
    crashes: int
    last_crash: float


class Poison:
    """The requests that crashed a model lately, with no success in between; at most 1,000 for an hour."""

    def __init__(self, incidents: Incidents) -> None:
        self._incidents = incidents
        self._suspects: collections.deque[_Suspect] = collections.deque(maxlen=_REMEMBERED)
        self._guilty: OrderedDict[Fingerprint, _Guilt] = OrderedDict()

    def __bool__(self) -> bool:
        """Whether any request is known to have crashed a model; if not, no body need be hashed."""
        return bool(self._guilty)

    def suspect(self, request: Fingerprint, sent: float) -> None:
        """A request that was in the backend when it went away, or that the backend never let go.

        :param sent: when the backend got it, Unix time
        """
        self._suspects.append(_Suspect(request, sent, time.time()))

    def resolve(self) -> None:
        """Finds the guilty among the suspects; to be called when a backend is ready again."""
        models = {suspect.request[0] for suspect in self._suspects}
        crashes = {model: self._incidents.crashes(model) for model in models}
        for suspect in self._suspects:
            latest = suspect.lost + _LATEST_CRASH_SECONDS
            times = crashes[suspect.request[0]]
            crash = next((at for at in times if suspect.sent <= at <= latest), None)
            if crash is not None:
                self._count(suspect.request, crash)
        self._suspects.clear()

    def succeeded(self, request: Fingerprint) -> None:
        """The same request was answered: it was not the cause."""
        self._guilty.pop(request, None)

    def check(self, request: Fingerprint) -> None:
        """:raises ApiError: 400, this request crashed the model twice in a row"""
        guilt = self._guilty.get(request)
        if guilt is None:
            return
        if time.time() - guilt.last_crash > _FORGET_SECONDS:
            del self._guilty[request]
        elif guilt.crashes >= _ENOUGH:
            raise crashes_model()

    def _count(self, request: Fingerprint, crash: float) -> None:
        guilt = self._guilty.setdefault(request, _Guilt(0, 0.0))
        # two of the same body in one crash are one crash
        if crash > guilt.last_crash:
            guilt.crashes += 1
            guilt.last_crash = crash
        self._guilty.move_to_end(request)
        if len(self._guilty) > _REMEMBERED:
            self._guilty.popitem(last=False)


class Case:
    """One request, on its way through one backend after another."""

    def __init__(self, poison: Poison, path: str, body: bytes) -> None:
        self._poison = poison
        self._path = path
        self._body = body
        self._digest: bytes | None = None
        self._sent: float | None = None

    def check(self, model: str) -> None:
        """:raises ApiError: 400, this request crashed the model twice in a row"""
        if self._poison:
            self._poison.check(self._fingerprint(model))

    def sent(self) -> None:
        """A backend gets the request now."""
        self._sent = time.time()

    def lost(self, model: str) -> None:
        """The backend went away, or does not let the request go; if it crashed, that may be the cause."""
        if self._sent is not None:
            self._poison.suspect(self._fingerprint(model), self._sent)
            self._sent = None

    def succeeded(self, model: str) -> None:
        """The answer is complete, and it is no failure of the model."""
        if self._poison:
            self._poison.succeeded(self._fingerprint(model))

    def _fingerprint(self, model: str) -> Fingerprint:
        if self._digest is None:
            self._digest = digest(self._path, self._body)
        return model, self._digest
