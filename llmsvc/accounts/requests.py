"""The single rows of the ledger, for people: the latest ones, and new ones as they come."""

from __future__ import annotations

import dataclasses
import datetime
import re
import uuid

from psycopg.rows import class_row

from llmsvc.database import Connection
from llmsvc.errors import UsageError

STATES = ("ok", "error", "timeout", "client_gone", "cancelled", "switched", "proxy_killed", "rejected")
"""`rejected` stands for all that begin with it, such as rejected_rate_limit."""
_REJECTED = re.compile(r"rejected(_[a-z_]+)?\Z")

_SELECT = """
SELECT seq, request_id, username, end_user, key_id, host(client_addr) AS client_addr, path, model, state,
       status_code, duration_ms, queue_ms, first_token_ms, request_bytes, response_bytes, prompt_tokens,
       completion_tokens, created_at
  FROM llama_requests
 WHERE username NOT IN (SELECT username FROM llama_users WHERE hidden)
"""

# There is no index by model: nothing is searched before and after the days on which it answered.
_DAYS_OF_MODEL = """
   AND created_at >= (SELECT min(day) FROM llama_usage_daily WHERE model = %s)::timestamp AT TIME ZONE 'UTC'
   AND created_at <
       (SELECT max(day) + 1 FROM llama_usage_daily WHERE model = %s)::timestamp AT TIME ZONE 'UTC'
"""


@dataclasses.dataclass(frozen=True)
class Request:
    """A request that has ended. Times are milliseconds; `created_at` is when it was accepted."""

    seq: int
    request_id: uuid.UUID
    username: str
    end_user: str | None
    key_id: int
    client_addr: str | None
    path: str
    model: str | None
    state: str
    status_code: int | None
    duration_ms: int | None
    queue_ms: int | None
    first_token_ms: int | None
    request_bytes: int
    response_bytes: int
    prompt_tokens: int | None
    completion_tokens: int | None
    created_at: datetime.datetime


@dataclasses.dataclass(frozen=True)
class Filter:
    """Which requests to tell about; None for any.

    :raises UsageError: there is no such state
    """

    username: str | None = None
    model: str | None = None
    end_user: str | None = None
    state: str | None = None

    def __post_init__(self) -> None:
        if self.state and self.state not in STATES and not _REJECTED.match(self.state):
            raise UsageError(
                f"there is no state {self.state[:40]!r}",
                hint=f"one of {', '.join(STATES)}, or one kind of those: rejected_rate_limit",
            )

    def condition(self) -> tuple[str, list[object]]:
        """SQL to append to a WHERE, and its parameters."""
        text, parameters = "", []
        for column in ("username", "model", "end_user"):
            value = getattr(self, column)
            if value is not None:
                text += f" AND {column} = %s"
                parameters.append(value)
        if self.state == "rejected":
            text += " AND state <> 'ok' AND state ~ '^rejected_'"
        elif self.state:
            # the first part lets an index of all that are not ok serve
            text += (" AND state <> 'ok'" if self.state != "ok" else "") + " AND state = %s"
            parameters.append(self.state)
        return text, list(parameters)


def latest(connection: Connection, which: Filter, limit: int) -> list[Request]:
    """The latest requests, by the time of their acceptance, the newest last."""
    condition, parameters = which.condition()
    if which.model is not None:
        condition += _DAYS_OF_MODEL
        parameters += [which.model] * 2
    text = f"{_SELECT}{condition} ORDER BY created_at DESC, request_id DESC LIMIT %s"
    with connection.cursor(row_factory=class_row(Request)) as cursor:
        return cursor.execute(text.encode(), [*parameters, limit]).fetchall()[::-1]


def beginning(connection: Connection, which: Filter, limit: int) -> tuple[list[Request], int]:
    """latest(), and the number after which after() goes on with nothing left out and nothing twice.

    :param connection: in autocommit mode
    """
    with connection.transaction():
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        row = connection.execute("SELECT coalesce(max(seq), 0) FROM llama_requests").fetchone()
        return latest(connection, which, limit), int(row[0]) if row else 0


def after(connection: Connection, which: Filter, seq: int, limit: int) -> list[Request]:
    """At most `limit` requests that were written after row `seq`, in the order in which they were."""
    condition, parameters = which.condition()
    text = f"{_SELECT}{condition} AND seq > %s ORDER BY seq LIMIT %s"
    with connection.cursor(row_factory=class_row(Request)) as cursor:
        return cursor.execute(text.encode(), [*parameters, seq, limit]).fetchall()
