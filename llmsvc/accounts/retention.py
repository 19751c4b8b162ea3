"""Removes old rows of the ledger. Their sums stay: llama_usage_daily counted each row when it came."""

from __future__ import annotations

import datetime
from collections.abc import Callable

from llmsvc.database import Connection

BATCH = 10_000

_MARK = "pruned_before"

# A row that another prune has locked is that one's to delete.
_DELETE = """
DELETE FROM llama_requests
 WHERE ctid = ANY (ARRAY(
       SELECT ctid FROM llama_requests WHERE created_at < %s ORDER BY created_at LIMIT %s
          FOR UPDATE SKIP LOCKED))
"""


def boundary(days: int, now: datetime.datetime | None = None) -> datetime.datetime:
    """What is older is removed: the beginning of a UTC day, so that at least `days` days are kept."""
    today = (now or datetime.datetime.now(datetime.timezone.utc)).astimezone(datetime.timezone.utc).date()
    try:
        oldest = today - datetime.timedelta(days=days)
    except OverflowError:
        oldest = datetime.date.min
    return datetime.datetime.combine(oldest, datetime.time(), datetime.timezone.utc)


def due(connection: Connection, before: datetime.datetime) -> int:
    """How many rows prune() would remove."""
    row = connection.execute("SELECT count(*) FROM llama_requests WHERE created_at < %s", [before]).fetchone()
    return int(row[0]) if row else 0


def prune(
    connection: Connection,
    before: datetime.datetime,
    progress: Callable[[int], None] | None = None,
    batch: int = BATCH,
) -> int:
    """Removes the rows of requests before that moment, one transaction a batch; returns how many.

    May be interrupted at any time, and run by several at once.

    :param connection: in autocommit mode
    :param before: as boundary() returns it
    :param progress: told after each batch how many rows it has removed so far
    """
    # first of all: from now on a report takes these days as a whole
    connection.execute(
        "INSERT INTO llama_meta AS m (key, value) VALUES (%s, %s)"
        " ON CONFLICT (key) DO UPDATE SET value = greatest(m.value, excluded.value)",
        [_MARK, before.date().isoformat()],
    )
    removed = 0
    while count := connection.execute(_DELETE, [before, batch]).rowcount:
        removed += count
        if progress:
            progress(removed)
    return removed


def pruned_before(connection: Connection) -> datetime.date | None:
    """The UTC day before which rows were removed; None if none ever was."""
    row = connection.execute("SELECT value FROM llama_meta WHERE key = %s", [_MARK]).fetchone()
    return datetime.date.fromisoformat(row[0]) if row else None
