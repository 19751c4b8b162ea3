"""What a request is called: by us always, by its client if it says so.

Our id is the key of the request's row, of its entry in the journal, and what an admin cancels it by. One that
the client chose need not be unique: it is given back as it came, and stands beside ours.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from llmsvc.proxy.errors import Headers

_HARMLESS = re.compile(rb"[A-Za-z0-9._-]{1,128}\Z")


def chosen(headers: Iterable[tuple[bytes, bytes]]) -> bytes | None:
    """The client's x-request-id; None if it sent none, or one that might do harm in a log."""
    for name, value in headers:
        if name == b"x-request-id":
            return value if _HARMLESS.match(value) else None
    return None


def headers(ours: str, chosen: bytes | None) -> Headers:
    """The headers of the answer: x-request-id as the client knows it, and ours where that is another one."""
    own = ours.encode()
    if chosen is None:
        return [(b"x-request-id", own)]
    return [(b"x-request-id", chosen), (b"x-llmsvc-request-id", own)]


def journal(chosen: bytes | None) -> dict[str, object]:
    """What the entry in the journal says besides our id."""
    return {} if chosen is None else {"client_request_id": chosen.decode()}
