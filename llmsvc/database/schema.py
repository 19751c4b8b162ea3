"""Brings the schema to the state that this code expects, by the numbered SQL files of migrations/."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from importlib import resources

import psycopg

from llmsvc.database.connection import Connection
from llmsvc.errors import Error

_LOCK = 0x6C6C6D737663  # "llmsvc": the advisory lock that lets one migrate at a time

_TABLE = """
CREATE TABLE IF NOT EXISTS llama_migrations (
    name text PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT now()
)
"""


def known() -> dict[str, str]:
    """Name (`0001_initial`) to SQL of every migration of this version, in order."""
    folder = resources.files("llmsvc.database") / "migrations"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".sql")), key=lambda f: f.name)
    return {f.name.removesuffix(".sql"): f.read_text("utf-8") for f in files}


def applied(connection: Connection) -> list[str]:
    """Names of the migrations that the database has, in order; none where it has no tables of ours."""
    if connection.execute("SELECT to_regclass('llama_migrations') IS NOT NULL").fetchone() != (True,):
        return []
    return [name for (name,) in connection.execute("SELECT name FROM llama_migrations ORDER BY name")]


def pending(connection: Connection) -> list[str]:
    """Names of the migrations that are still to be applied.

    :raises Error: the database was made by a newer version
    """
    done = set(applied(connection))
    names = known()
    unknown = sorted(done - names.keys())
    if unknown:
        raise Error(
            f"the database is newer than this version of llmsvc: it has migration {unknown[-1]}, "
            f"we know up to {max(names)}",
            hint="use the newer llmsvc, or restore the backup that was made before the upgrade",
        )
    return [name for name in names if name not in done]


def migrate(connection: Connection) -> list[str]:
    """Applies what is pending and returns the names. Safe to run twice, and by several at once.

    Each migration is one transaction, so a failing one leaves nothing of itself behind.

    :param connection: in autocommit mode, as connect() returns it
    :raises Error: the database was made by a newer version, a migration does not fit it, or it is another's
    """
    with _locked(connection):
        names = pending(connection)
        if names:
            try:
                connection.execute(_TABLE)
            except psycopg.errors.InsufficientPrivilege as refused:
                database, role = connection.info.dbname, connection.info.user
                raise Error(
                    f"role {role} may not make tables in the database {database}: "
                    f"{str(refused).splitlines()[0]}",
                    hint=f"""if it is to be used: ALTER DATABASE "{database}" OWNER TO "{role}"; """
                    "else name another one: llmsvc install --database 'postgresql:///NAME'",
                ) from None
        sql = known()
        for name in names:
            try:
                with connection.transaction():
                    connection.execute(sql[name].encode())
                    connection.execute("INSERT INTO llama_migrations (name) VALUES (%s)", [name])
            except psycopg.DatabaseError as failed:
                if connection.broken:
                    raise
                raise Error(
                    f"migration {name} cannot be applied to this database: {str(failed).splitlines()[0]}",
                    hint="nothing was changed; its tables were changed by hand, or are another program's",
                ) from None
    return names


@contextlib.contextmanager
def _locked(connection: Connection) -> Iterator[None]:
    connection.execute("SELECT pg_advisory_lock(%s)", [_LOCK])
    try:
        yield
    finally:
        if not connection.broken:
            connection.execute("SELECT pg_advisory_unlock(%s)", [_LOCK])
