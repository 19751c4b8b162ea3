"""The database as one file, in pg_dump's custom format; PostgreSQL's own programs write and read it."""

from __future__ import annotations

import contextlib
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from llmsvc import paths, process
from llmsvc.config import Config
from llmsvc.database.connection import password
from llmsvc.errors import Error
from llmsvc.process import ProcessError

_CHUNK = 1 << 20

# All that is ours, also what a newer version has made: nothing of it may meet what comes back. Not the schema
# as a whole: what else somebody keeps in there is theirs.
_CLEAR = r"""
BEGIN;
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN SELECT c.oid::regclass AS name, CASE c.relkind WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS kind
                   FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE n.nspname = 'public' AND c.relname LIKE 'llama\_%' AND c.relkind IN ('r', 'p', 'v')
                  ORDER BY c.relkind = 'v' DESC LOOP
        EXECUTE format('DROP %s IF EXISTS %s CASCADE', found.kind, found.name);
    END LOOP;
    FOR found IN SELECT p.oid::regprocedure AS name
                   FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                  WHERE n.nspname = 'public' AND p.proname LIKE 'llama\_%' LOOP
        EXECUTE format('DROP FUNCTION IF EXISTS %s CASCADE', found.name);
    END LOOP;
END
$$;
"""


def save(config: Config, target: IO[bytes]) -> None:
    """Writes our tables into `target`, as they were at one moment. What runs goes on meanwhile.

    :raises Error: pg_dump failed
    """
    # by schema: a choice of tables would leave out the functions behind their triggers
    argv = ["pg_dump", "--format=custom", "--no-owner", "--no-privileges", "--schema=public"]
    hint = "is PostgreSQL's client of the server's version, or a newer one?"
    with (
        _environment(config) as environment,
        process.running(
            [*argv, *_where(config)], stdout=target, user=_user(config), env=environment, hint=hint
        ),
    ):
        pass


def load(config: Config, source: Path) -> None:
    """Puts what save() wrote in the place of our tables: all of it, or on any failure nothing.

    :raises Error: it is damaged, or made by a newer PostgreSQL; or the database refuses it
    """
    user = _user(config)
    psql = ["psql", "--no-psqlrc", "--quiet", "--set=ON_ERROR_STOP=1", "--file=-", *_where(config)]
    read = ["pg_restore", "--file=-", "--no-owner", "--no-privileges", "--schema=public"]
    try:
        with (
            _environment(config) as environment,
            process.running(psql, stdin=subprocess.PIPE, user=user, env=environment) as writer,
        ):
            assert writer.stdin
            writer.stdin.write(_CLEAR.encode())
            with (
                source.open("rb") as file,
                process.running(read, stdin=file, stdout=subprocess.PIPE, user=user) as reader,
            ):
                assert reader.stdout
                _copy(reader.stdout, writer.stdin)
            # only now that all of it has come: without it the end of the input undoes everything
            writer.stdin.write(b"COMMIT;\n")
    except ProcessError as error:
        if "unsupported version" in error.output:
            raise Error(
                "the backup was made by a newer PostgreSQL than the one here",
                hint="install that version of postgresql-client, and of postgresql",
            ) from None
        lines = [line for line in error.output.splitlines() if "ERROR:" in line or "FATAL:" in line]
        said = lines[0] if lines else error.message
        raise Error(f"the database could not be restored: {said}", hint="it is as it was before") from None


def _copy(source: IO[bytes], target: IO[bytes]) -> None:
    """Passes the SQL on, but for a setting that servers before PostgreSQL 17 do not know."""
    head = source.readlines(4096)
    try:
        target.writelines(line for line in head if not line.startswith(b"SET transaction_timeout"))
        while chunk := source.read(_CHUNK):
            target.write(chunk)
    except BrokenPipeError:
        # psql has found an error and tells it; pg_restore must not wait for somebody who reads
        while source.read(_CHUNK):
            pass


def _user(config: Config) -> str | None:
    """Over the local socket root takes the identity that peer authentication wants."""
    return paths.PROXY_USER if config.local_database else None


def _where(config: Config) -> list[str]:
    return [
        f"--host={config.postgres_auth_host}",
        f"--port={config.postgres_auth_port}",
        f"--username={config.postgres_auth_user}",
        f"--dbname={config.postgres_auth_db}",
        "--no-password",
    ]


@contextlib.contextmanager
def _environment(config: Config) -> Iterator[dict[str, str]]:
    """What libpq is told beside its arguments; a password by a file, for an environment can be read."""
    told = {"PGSSLMODE": config.postgres_auth_sslmode, "PGCONNECT_TIMEOUT": "5", "PGCLIENTENCODING": "UTF8"}
    secret = None if config.local_database else password()
    if config.verifies_database and not config.local_database:
        told["PGSSLROOTCERT"] = str(config.postgres_auth_sslrootcert)
    with tempfile.NamedTemporaryFile("w", prefix="llmsvc-", encoding="utf-8") as file:
        if secret:
            escaped = secret.replace("\\", "\\\\").replace(":", "\\:")
            file.write(f"*:*:*:*:{escaped}\n")
            file.flush()
            told["PGPASSFILE"] = file.name
        yield told
