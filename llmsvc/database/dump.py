"""A dump of the database from before a migration, and the way back to it that loses no request's row."""

# ruff: noqa: S608 - names of columns, out of a dump of our own

from __future__ import annotations

import contextlib
import json
import os
import pwd
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from llmsvc import paths, process
from llmsvc.config import Config
from llmsvc.database.connection import password
from llmsvc.errors import Error

_HINT = "the programs of PostgreSQL's client are needed: apt install postgresql-client"
_LEDGER = re.compile(r"COPY public\.llama_requests \((.*)\) FROM stdin;")

_OVERLAP = 86400
"""Seconds before a dump from which on rows of requests are compared: they are written when a request ends."""


def make(config: Config, name: str) -> Path:
    """Dumps the database to a file NAME.sql of root's own in BACKUPS, in place of older ones.

    Who is killed meanwhile leaves DUMPING, as in restore().

    :raises Error: it cannot be dumped, or there is no room for it
    """
    paths.BACKUPS.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in paths.BACKUPS.iterdir():
        old.unlink()
    file = paths.BACKUPS / f"{name}.sql"
    with file.open("x", encoding="utf-8") as out:
        os.fchmod(out.fileno(), 0o600)
        out.write(f"-- {json.dumps({'place': _place(config), 'made': int(time.time())})}\n")
        out.flush()
        _as_owner(["pg_dump", "--no-owner", "--no-privileges"], _place(config), stdout=out)
        os.fsync(out.fileno())
    return file


def restore(file: Path) -> None:
    """Puts the database back to a dump of make(), in one transaction; requests counted since then stay.

    :raises Error: it could not be done, and the database is as it was
    """
    with file.open(encoding="utf-8") as dump:
        header = json.loads(dump.readline().removeprefix("-- "))
        columns = next((m[1] for m in map(_LEDGER.match, dump) if m), None)
    place, since = header["place"], header["made"] - _OVERLAP
    with _directory_of_owner() as work:
        rows = work / "rows"
        script = work / "script"
        with script.open("w", encoding="utf-8") as out:
            if columns:
                newer = f"SELECT {columns} FROM llama_requests WHERE created_at > to_timestamp({since})"
                out.write(f"LOCK TABLE llama_requests;\n\\copy ({newer}) TO '{rows}'\n")
            out.write("DROP OWNED BY CURRENT_USER;\n")
            with file.open(encoding="utf-8") as dump:
                shutil.copyfileobj(dump, out)
            if columns:
                out.write(
                    "SET search_path = public;\n"
                    f"CREATE TEMP TABLE newer AS SELECT {columns} FROM llama_requests WHERE false;\n"
                    f"\\copy newer ({columns}) FROM '{rows}'\n"
                    f"INSERT INTO llama_requests ({columns}) OVERRIDING USER VALUE"
                    f" SELECT {columns} FROM newer ON CONFLICT DO NOTHING;\n"
                )
        psql = ["psql", "--no-psqlrc", "--quiet", "--single-transaction", "--set=ON_ERROR_STOP=1"]
        with script.open(encoding="utf-8") as stdin:
            _as_owner([*psql, "--output=/dev/null", "--file=-"], place, stdin=stdin)


def _place(config: Config) -> dict[str, str]:
    """libpq's environment for the database."""
    return {
        "PGHOST": config.postgres_auth_host,
        "PGPORT": str(config.postgres_auth_port),
        "PGDATABASE": config.postgres_auth_db,
        "PGUSER": config.postgres_auth_user,
        "PGSSLMODE": config.postgres_auth_sslmode,
        **({"PGSSLROOTCERT": str(config.postgres_auth_sslrootcert)} if config.verifies_database else {}),
    }


def _as_owner(
    argv: list[str], place: dict[str, str], *, stdout: IO[str] | None = None, stdin: IO[str] | None = None
) -> None:
    """Runs a program of PostgreSQL's client as the user whom peer authentication lets in."""
    argv = ["runuser", "-u", paths.PROXY_USER, "--", *argv]
    env = {**place, "PGCLIENTENCODING": "UTF8"}
    with _directory_of_owner() as work:
        secret = None if place["PGHOST"].startswith("/") else password()
        if secret:
            file = work / "pgpass"
            file.touch(mode=0o600)
            shutil.chown(file, paths.PROXY_USER)
            escaped = secret.replace("\\", "\\\\").replace(":", "\\:")
            file.write_text(f"*:*:*:*:{escaped}\n", encoding="utf-8")
            env["PGPASSFILE"] = str(file)
        try:
            process.run(argv, env=env, stdout=stdout, stdin=stdin, hint=_HINT)
        except process.ProcessError as error:
            # the last line of psql's words is a mark below what is wrong
            said = next((line for line in error.output.splitlines() if "error:" in line.lower()), None)
            raise Error(f"{Path(argv[4]).name}: {said}" if said else error.message) from None


@contextlib.contextmanager
def _directory_of_owner() -> Iterator[Path]:
    """A directory in DUMPING that only root and the owner of the database can enter."""
    owner = pwd.getpwnam(paths.PROXY_USER)
    paths.DUMPING.mkdir(parents=True, exist_ok=True)
    paths.DUMPING.chmod(0o711)
    try:
        with tempfile.TemporaryDirectory(dir=paths.DUMPING) as work:
            os.chown(work, owner.pw_uid, owner.pw_gid)
            yield Path(work)
    finally:
        with contextlib.suppress(OSError):  # another is in there
            paths.DUMPING.rmdir()
