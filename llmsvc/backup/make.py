"""Makes a backup of this machine: database, settings, models.d and credentials."""

from __future__ import annotations

import contextlib
import datetime
import shutil
import socket
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import llmsvc
from llmsvc import paths
from llmsvc.accounts import keys, meta
from llmsvc.backup import archive, tables
from llmsvc.config import Config
from llmsvc.database import connect, schema
from llmsvc.errors import Error, SettingError
from llmsvc.library import records, settings, store

_WORK = ".backup-"
_LONGEST_SECONDS = 86400
NOT_SAVED = frozenset({"database-password"})
"""Credentials that belong to the machine: how it reaches its database is no part of a backup."""


@contextlib.contextmanager
def work_directory() -> Iterator[Path]:
    """A directory for root alone, on disk: a ledger may be larger than a /tmp in memory.

    Those that killed ones left, with secrets in them, are removed once none can be at work there any more.
    """
    paths.STATE.mkdir(parents=True, exist_ok=True)
    for left in paths.STATE.glob(f"{_WORK}*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - left.stat().st_mtime > _LONGEST_SECONDS:
                shutil.rmtree(left)
    with tempfile.TemporaryDirectory(prefix=_WORK, dir=paths.STATE) as folder:
        yield Path(folder)


def make(config: Config, target: IO[bytes], *, checked: bool = True) -> archive.About:
    """Writes a backup to a file or a pipe; what runs goes on meanwhile. Needs root.

    :param checked: False takes what there is, also without a pepper or with a wrong one
    :raises SettingError: the pepper is missing, or another one than the database's: no key would work then
    :raises Error: the database does not answer, or cannot be dumped
    """
    with connect(config) as connection:
        pepper = None
        if checked:
            if not schema.applied(connection):
                raise Error("the database has no tables of llmsvc yet", hint="sudo llmsvc db migrate")
            pepper = keys.read_pepper(paths.PEPPER)
            row = connection.execute(meta.FINGERPRINT_QUERY).fetchone()
            meta.compare(row[0] if row else None, pepper)
        about = archive.About(
            made=datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
            host=socket.gethostname(),
            llmsvc=llmsvc.__version__,
            postgresql=connection.info.parameter_status("server_version") or "",
            migrations=schema.applied(connection),
            pepper_fingerprint=meta.fingerprint(pepper) if pepper else None,
            default_model=store.default_model(),
            models=[_model(name) for name in store.names()],
        )
    with work_directory() as work:
        database = work / "database"
        with database.open("xb") as stream:
            tables.save(config, stream)
        archive.write(target, about, {archive.DATABASE: database, **_files()})
    return about


def _files() -> dict[str, Path]:
    """The members that are files of this machine as they are."""
    found = {archive.CONFIG: paths.CONFIG_ENV} if paths.CONFIG_ENV.exists() else {}
    found |= {f"etc/models.d/{name}.env": store.env_file(name) for name in store.names()}
    for file in sorted(paths.CREDENTIALS.iterdir()):
        if file.is_file() and not file.name.startswith(".") and file.name not in NOT_SAVED:
            found[f"credentials/{file.name}"] = file
    return found


def _model(name: str) -> dict[str, str | None]:
    try:
        file = settings.load(name).model
    except SettingError:
        return {"name": name, "file": None, "sha256": None, "origin": None}
    known = records.read(file)
    return {
        "name": name,
        "file": file.name,
        "sha256": known.sha256 if known else None,
        "origin": known.origin if known else None,
    }
