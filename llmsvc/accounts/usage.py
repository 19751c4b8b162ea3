"""Who used how much: the sums of llama_usage_daily, which also hold what retention has removed.

Days are UTC days. A period that begins or ends within a day takes that day's part from llama_requests, as
long as its rows are there.
"""

from __future__ import annotations

import dataclasses
import datetime
from collections.abc import Mapping

from psycopg.rows import class_row

from llmsvc.accounts import retention
from llmsvc.database import Connection

UTC = datetime.timezone.utc

_KEY = "day, username, key_id, end_user, model"
_SUMS = (
    "requests",
    "errors",
    "rejected",
    "prompt_tokens",
    "completion_tokens",
    "model_ms",
    "queue_ms",
    "request_bytes",
    "response_bytes",
)
_GROUPS: Mapping[str, Mapping[str, str]] = {
    "user": {"username": "s.username"},
    "end-user": {"username": "s.username", "end_user": "nullif(s.end_user, '')"},
    "model": {"model": "nullif(s.model, '')"},
    "day": {"day": "s.day"},
    "key": {"username": "s.username", "key_id": "s.key_id"},
    "total": {},
}
"""What a report may be grouped by: the columns of its answer, and where they come from."""

GROUPS = tuple(_GROUPS)


@dataclasses.dataclass(frozen=True)
class Usage:
    """Sums of one group; of the fields about the group, those are set that the report is grouped by.

    `errors` are requests that we failed, `rejected` those that we refused. `queue_ms` is the wait in the
    queue and `model_ms` the time beyond it.
    """

    requests: int
    errors: int
    rejected: int
    prompt_tokens: int
    completion_tokens: int
    model_ms: int
    queue_ms: int
    request_bytes: int
    response_bytes: int
    username: str | None = None
    end_user: str | None = None
    model: str | None = None
    day: datetime.date | None = None
    key_id: int | None = None
    key_name: str | None = None
    key_prefix: str | None = None


@dataclasses.dataclass(frozen=True)
class Period:
    """From `since`, which is counted, to `until`, which is not, or to the present; both aware."""

    since: datetime.datetime
    until: datetime.datetime | None = None

    def widened(self, pruned_before: datetime.date | None) -> Period:
        """The same in UTC, and whole days where only the sums of days are left."""
        since = self.since.astimezone(UTC)
        until = self.until.astimezone(UTC) if self.until else None
        if pruned_before and since.date() < pruned_before:
            since = _midnight(since)
        if pruned_before and until and until.date() < pruned_before:
            until = _next_midnight(until)
        return Period(since, until)


def known(connection: Connection, period: Period) -> Period:
    """The period in UTC, widened to whole days where the single requests are no longer kept."""
    return period.widened(retention.pruned_before(connection))


@dataclasses.dataclass(frozen=True)
class Filter:
    """Whose requests count; None for any."""

    username: str | None = None
    end_user: str | None = None
    model: str | None = None


ANY = Filter()


def report(connection: Connection, by: str, period: Period, which: Filter = ANY) -> list[Usage]:
    """The sums of a period, one for each group: days in order, all else by time on the model.

    :param by: one of GROUPS; `total` gives one row, also where there was nothing
    :param period: as known() returns it
    """
    statement, parameters = query(by, period, which)
    with connection.transaction(), connection.cursor(row_factory=class_row(Usage)) as cursor:
        cursor.execute("SET LOCAL work_mem = '64MB'")  # or groups by the thousand are sorted on disk
        return cursor.execute(statement, parameters).fetchall()


def query(by: str, period: Period, which: Filter = ANY) -> tuple[bytes, dict[str, object]]:
    """The statement of a report and its parameters, for a connection of any kind; see report().

    Its rows have the fields of Usage.
    """
    first = _next_midnight(period.since - datetime.timedelta(microseconds=1))
    last = _midnight(period.until) if period.until else None
    parameters: dict[str, object] = {"first": first.date(), "last": last and last.date()}
    parts = [("llama_usage_daily", "day >= %(first)s" + (" AND day < %(last)s" if last else ""))]
    for number, (start, end) in enumerate(_edges(period, first, last)):
        condition = f"created_at >= %(start{number})s AND created_at < %(end{number})s"
        parts.append(("llama_request_usage", condition))
        parameters |= {f"start{number}": start, f"end{number}": end}
    for column, value in dataclasses.asdict(which).items():
        if value is not None:
            parts = [(table, f"{condition} AND {column} = %({column})s") for table, condition in parts]
            parameters[column] = value

    union = " UNION ALL ".join(
        f"SELECT {_KEY}, {', '.join(_SUMS)} FROM {table} WHERE {condition}"  # noqa: S608 - no value is in it
        for table, condition in parts
    )
    groups = _GROUPS[by]
    columns = [f"{source} AS {name}" for name, source in groups.items()]
    columns += [f"coalesce(sum(s.{name}), 0)::bigint AS {name}" for name in _SUMS]
    text = (
        f"SELECT {', '.join(columns)} FROM ({union}) s"  # noqa: S608 - no value is in it
        " WHERE s.username NOT IN (SELECT username FROM llama_users WHERE hidden)"
    )
    if groups:
        text += f" GROUP BY {', '.join(str(number + 1) for number in range(len(groups)))}"
    if by == "key":
        text = (
            f"SELECT g.*, k.name AS key_name, k.prefix AS key_prefix FROM ({text}) g"  # noqa: S608
            " LEFT JOIN llama_api_keys k ON k.id = g.key_id"
        )
    if groups:
        order = ["day"] if by == "day" else ["model_ms DESC", "requests DESC", *groups]
        text += f" ORDER BY {', '.join(order)}"
    return text.encode(), parameters


OWN_USAGE_QUERY = """
SELECT day, nullif(model, '') AS model, sum(requests)::bigint AS requests, sum(errors)::bigint AS errors,
       sum(rejected)::bigint AS rejected, sum(prompt_tokens)::bigint AS prompt_tokens,
       sum(completion_tokens)::bigint AS completion_tokens, sum(model_ms)::bigint AS model_ms,
       sum(queue_ms)::bigint AS queue_ms
  FROM llama_usage_daily
 WHERE username = %(username)s AND day >= %(since)s AND day < %(until)s
   AND (%(end_user)s::text IS NULL OR end_user = %(end_user)s)
 GROUP BY 1, 2
 ORDER BY 1, 2
"""
"""What one user may know of itself, for a connection of any kind; the rows have the fields of OwnUsage.

Its parameters are `username`, `end_user` (None for all that came through the user's keys) and those of
own_days().
"""


@dataclasses.dataclass(frozen=True)
class OwnUsage:
    """One user's sums of a UTC day and a model, None where none was reached; as Usage has them."""

    day: datetime.date
    model: str | None
    requests: int
    errors: int
    rejected: int
    prompt_tokens: int
    completion_tokens: int
    model_ms: int
    queue_ms: int


def own_days(days: int, now: datetime.datetime | None = None) -> dict[str, datetime.date]:
    """Parameters of OWN_USAGE_QUERY for the last UTC days, today included: `since`, and, excluded, `until`.

    :param days: at least 1
    """
    tomorrow = (now or datetime.datetime.now(UTC)).astimezone(UTC).date() + datetime.timedelta(days=1)
    return {"since": tomorrow - datetime.timedelta(days=days), "until": tomorrow}


def _edges(
    period: Period, first: datetime.datetime, last: datetime.datetime | None
) -> list[tuple[datetime.datetime, datetime.datetime]]:
    """The parts of the period outside of its whole days, which begin with `first` and end before `last`."""
    if period.until and last and last < first:  # within one day
        return [(period.since, period.until)]
    edges = []
    if period.since < first:
        edges.append((period.since, first))
    if period.until and last and last < period.until:
        edges.append((last, period.until))
    return edges


def _midnight(moment: datetime.datetime) -> datetime.datetime:
    return moment.replace(hour=0, minute=0, second=0, microsecond=0)


def _next_midnight(moment: datetime.datetime) -> datetime.datetime:
    return _midnight(moment) + datetime.timedelta(days=1)
