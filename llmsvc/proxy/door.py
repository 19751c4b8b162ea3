"""How many connections there may be, how long one may be silent or deaf, and where it comes from.

Without a ceiling, connections would take all descriptors (LimitNOFILE=65536 in the unit), and a client that
never ends its request, or never reads its answer, would hold one for ever.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from typing import TYPE_CHECKING

from llmsvc.proxy.addresses import Proxies
from llmsvc.proxy.errors import ApiError, unavailable

if TYPE_CHECKING:
    from llmsvc.proxy.connection import Connection

_log = logging.getLogger(__name__)

UNREAD_SECONDS = 60.0
"""How long a client may read nothing of an answer that is there for it."""

_SWEEP_SECONDS = 1.0
_REPEAT_WARNING_SECONDS = 60.0


# of those with unread answers: how much they have read, and when they last did
Read = dict["Connection", tuple[int, float]]


class Door:
    """Lets connections in and turns out those that are overdue.

    :param total: connections at once
    :param per_address: connections of one address at once
    :param head_seconds: in which the head of a request must have arrived, also the first one
    :param body_seconds: in which the rest of a body must have arrived that is answered already
    :param proxies: whose word counts for the address of a client
    """

    closing = False
    """The server ends: connections are not used again."""

    def __init__(
        self, total: int, per_address: int, head_seconds: float, body_seconds: float, proxies: Proxies
    ) -> None:
        self.head_seconds = head_seconds
        self.body_seconds = body_seconds
        self.proxies = proxies
        self._total = total
        self._per_address = per_address
        self._inside = 0
        self._addresses: dict[str | None, int] = {}
        self._warned = -_REPEAT_WARNING_SECONDS

    def enter(self, address: str | None, *, exempt: bool) -> ApiError | None:
        """Counts one connection; an error says that there is no room for it.

        :param exempt: a trusted proxy, which speaks for many
        """
        if self._inside >= self._total:
            self._warn("connections are refused: there are %d already", self._inside)
            return unavailable("Too many connections.", "too_many_connections", retry_after=5)
        if not exempt:
            count = self._addresses.get(address, 0)
            if count >= self._per_address:
                self._warn("connections of %s are refused: it has %d already", address, count)
                return ApiError(
                    429,
                    f"Your address has {count} connections already.",
                    kind="requests",
                    code="too_many_connections",
                    headers=[(b"retry-after", b"5")],
                )
            self._addresses[address] = count + 1
        self._inside += 1
        return None

    def leave(self, address: str | None, *, exempt: bool) -> None:
        """One that was let in is gone."""
        self._inside -= 1
        if not exempt:
            self._addresses[address] -= 1
            if not self._addresses[address]:
                del self._addresses[address]

    async def sweep(self, connections: Callable[[], Collection[Connection]]) -> None:
        """Ends overdue connections for ever; to be run as a task."""
        read: Read = {}
        while True:
            await asyncio.sleep(_SWEEP_SECONDS)
            read = turn_out(list(connections()), read, asyncio.get_running_loop().time())

    def _warn(self, message: str, *values: object) -> None:
        if time.monotonic() - self._warned >= _REPEAT_WARNING_SECONDS:
            self._warned = time.monotonic()
            _log.warning(message, *values)


def turn_out(connections: Sequence[Connection], read: Read, now: float) -> Read:
    """Turns out those that are overdue, or that read nothing of what waits for them.

    :param now: time of the loop
    :returns: the next `read`
    """
    still: Read = {}
    for connection in connections:
        if connection.deadline < now:
            connection.overdue()
        unread = connection.transport.get_write_buffer_size()
        if unread:
            has_read = connection.written - unread
            before, since = read.get(connection, (has_read, now))
            if has_read > before:
                since = now
            if now - since > UNREAD_SECONDS:
                connection.transport.abort()
            else:
                still[connection] = (has_read, since)
    return still
