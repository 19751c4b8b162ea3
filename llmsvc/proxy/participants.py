"""Whom a request counts for: the user of its key, or, on a trusted front end's key, the person it names."""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable

from llmsvc.accounts.directory import KeyRecord
from llmsvc.proxy.errors import ApiError, bad_request

_log = logging.getLogger(__name__)

_MOST_CHARACTERS = 128
_FORGET_SECONDS = 86400.0
_WARN_SECONDS = 3600.0


@dataclasses.dataclass(frozen=True, slots=True)
class Participant:
    """Somebody with limits, a place in the queue and rows in reports of their own.

    :param key: identifies it, over restarts too
    :param record: the key that the request showed
    :param end_user: whom a trusted front end named
    :param crowd: one of those whom it named beyond the number that are told apart
    """

    key: str
    record: KeyRecord
    end_user: str | None = None
    crowd: bool = False

    @property
    def name(self) -> str:
        """What people call it."""
        return self.record.username if self.end_user is None else f"{self.record.username}/{self.end_user}"


class Participants:
    """Tells them apart.

    :param most: end users of one front end that are told apart within a day; further ones count as its own
        user, so that a front end cannot make itself limits without end
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._clock = clock
        self._named: dict[int, OrderedDict[str, float]] = {}
        self._warned: dict[int, float] = {}

    def of(self, record: KeyRecord, headers: Iterable[tuple[bytes, bytes]]) -> Participant:
        """The participant of a request with this key and these headers.

        :raises ApiError: 400, what the front end says is no name
        """
        end_user = None
        if record.on_behalf_of is not None:
            end_user = _named(record.on_behalf_of.encode(), headers)
        if end_user is None:
            return Participant(str(record.user_id), record)
        if not self._known(record, end_user):
            return Participant(str(record.user_id), record, crowd=True)
        # not by key: one that is being rotated would give everybody their limits twice
        return Participant(f"{record.user_id}:{end_user}", record, end_user)

    def alone(self, record: KeyRecord, headers: Iterable[tuple[bytes, bytes]]) -> Participant:
        """The same, for what only that participant may see.

        :raises ApiError: 403, it is not told apart from others
        """
        who = self.of(record, headers)
        if who.crowd:
            raise ApiError(
                403,
                f"{record.username} has named too many people today; you are not told apart from others.",
                code="end_user_unknown",
                state="rejected_key",
            )
        return who

    def _known(self, record: KeyRecord, end_user: str) -> bool:
        names = self._named.setdefault(record.user_id, OrderedDict())
        now = self._clock()
        while names and next(iter(names.values())) <= now - _FORGET_SECONDS:
            names.popitem(last=False)
        if end_user not in names and len(names) >= self._most:
            self._warn(record, now)
            return False
        names[end_user] = now
        names.move_to_end(end_user)
        return True

    def _warn(self, record: KeyRecord, now: float) -> None:
        if now - self._warned.get(record.user_id, -_WARN_SECONDS) >= _WARN_SECONDS:
            self._warned[record.user_id] = now
            _log.warning(
                "%s names more than %d people a day (LLAMA_PROXY_END_USERS): the rest counts as itself",
                record.username,
                self._most,
            )


def _named(header: bytes, headers: Iterable[tuple[bytes, bytes]]) -> str | None:
    values = {value.strip() for name, value in headers if name == header} - {b""}
    if not values:
        return None
    shown = header.decode()
    if len(values) > 1:
        raise bad_request(
            f"The header {shown} is there twice, with different values.", code="invalid_end_user"
        )
    try:
        name = values.pop().decode()
    except UnicodeDecodeError:
        name = ""
    if not name.isprintable() or not 0 < len(name) <= _MOST_CHARACTERS:
        rule = f"at most {_MOST_CHARACTERS} printable characters in UTF-8"
        raise bad_request(f"The header {shown} must be {rule}.", code="invalid_end_user")
    return name
