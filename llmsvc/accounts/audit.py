"""Who changed what: one row in llama_audit for every changing command."""

from __future__ import annotations

import dataclasses
import datetime

from psycopg.rows import class_row

from llmsvc.actor import actor
from llmsvc.database import Connection


def record(connection: Connection, verb: str, thing: str) -> None:
    """Writes the row; belongs into the transaction of the change.

    :param verb: the command as it is typed: `user add`
    :param thing: what it was done to; never a secret
    """
    connection.execute(
        "INSERT INTO llama_audit (actor, verb, object) VALUES (%s, %s, %s)", [actor().name, verb, thing]
    )


@dataclasses.dataclass(frozen=True)
class Entry:
    """A row: who did what to what, and when."""

    id: int
    at: datetime.datetime
    actor: str
    verb: str
    object: str


def entries(
    connection: Connection,
    since: datetime.datetime,
    until: datetime.datetime | None = None,
    by: str | None = None,
) -> list[Entry]:
    """What was changed from `since` to before `until`, the latest last.

    :param by: only what this person did
    """
    with connection.cursor(row_factory=class_row(Entry)) as cursor:
        return cursor.execute(
            "SELECT id, at, actor, verb, object FROM llama_audit"
            " WHERE at >= %(since)s AND (%(until)s::timestamptz IS NULL OR at < %(until)s)"
            " AND (%(by)s::text IS NULL OR actor = %(by)s) ORDER BY at, id",
            {"since": since, "until": until, "by": by},
        ).fetchall()
