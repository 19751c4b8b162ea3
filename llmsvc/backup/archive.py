"""The backup as a file: a tar whose first member, MANIFEST, names every other one with its size and sha256.

That is what tells a whole backup from a damaged or a foreign file. Any tar reads it: `tar -tvf`.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import re
import tarfile
import zlib
from pathlib import Path
from typing import IO

from llmsvc.errors import Error

MANIFEST = "llmsvc-backup.json"
FORMAT = 1
DATABASE = "database.dump"
CONFIG = "etc/config.env"
PEPPER = "credentials/pepper"
_NAME = r"[A-Za-z0-9][A-Za-z0-9._-]*"
_MEMBER = re.compile(rf"(database\.dump|etc/config\.env|(etc/models\.d|credentials)/{_NAME})\Z")
_MOST_MANIFEST = 16 << 20
_CHUNK = 1 << 20


@dataclasses.dataclass(frozen=True)
class About:
    """What a backup tells of itself.

    :ivar made: when, as ISO 8601 with its offset
    :ivar migrations: those of the database in it; empty where there is none
    :ivar models: of each model name, file name, sha256 and origin, as far as known: the files are not in it
    """

    made: str
    host: str
    llmsvc: str
    postgresql: str
    migrations: list[str]
    pepper_fingerprint: str | None
    default_model: str | None
    models: list[dict[str, str | None]]


@dataclasses.dataclass(frozen=True)
class Backup:
    """A backup that was read: its members lie in files, named by `members`."""

    about: About
    members: dict[str, Path]


def write(target: IO[bytes], about: About, members: dict[str, Path]) -> None:
    """Writes a backup to a file or a pipe.

    :param members: names in the backup, and the files that have their contents
    """
    listed = {name: {"size": file.stat().st_size, "sha256": _sha256(file)} for name, file in members.items()}
    head = {"format": FORMAT, **dataclasses.asdict(about), "members": listed}
    text = (json.dumps(head, indent=1) + "\n").encode()
    with tarfile.open(fileobj=target, mode="w|", format=tarfile.PAX_FORMAT) as tar:
        tar.addfile(_entry(MANIFEST, len(text)), io.BytesIO(text))
        for name, file in members.items():
            with file.open("rb") as stream:
                tar.addfile(_entry(name, listed[name]["size"]), stream)  # type: ignore[arg-type]


def read(source: IO[bytes], called: str, into: Path) -> Backup:
    """Reads a backup whole, from a file or a pipe, and checks every byte of it.

    :param called: its name in errors
    :param into: an empty directory for the members' contents
    :raises Error: it is something else, not whole, or not as it was written
    """
    try:
        with tarfile.open(fileobj=source, mode="r|*") as tar:
            return _members(tar, called, into)
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise
        if any(into.iterdir()):
            raise _damaged(called, "it ends too early") from None
        raise Error(
            f"{called} is no backup of llmsvc, or not a whole one",
            hint="'llmsvc db backup' makes them; one that was encrypted must be decrypted before",
        ) from None


def _members(tar: tarfile.TarFile, called: str, into: Path) -> Backup:
    entry = tar.next()
    stream = tar.extractfile(entry) if entry and entry.isfile() else None
    if entry is None or stream is None or entry.name != MANIFEST or entry.size > _MOST_MANIFEST:
        raise Error(f"{called} is no backup of llmsvc", hint="'llmsvc db backup' makes them")
    try:
        head = json.loads(stream.read())
        if head["format"] > FORMAT:
            raise Error(
                f"{called} was made by llmsvc {head['llmsvc']}, which is newer",
                hint="restore it with that version",
            )
        about = About(**{field.name: head[field.name] for field in dataclasses.fields(About)})
        listed = {str(name): (int(m["size"]), str(m["sha256"])) for name, m in head["members"].items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise _damaged(called, f"{MANIFEST} cannot be read") from None
    found: dict[str, Path] = {}
    while entry := tar.next():
        stream = tar.extractfile(entry) if entry.isfile() else None
        if stream is None or entry.name not in listed or entry.name in found or not _MEMBER.match(entry.name):
            raise _damaged(called, f"{entry.name[:80]!r} does not belong into it")
        # by number: no name of the backup becomes a path
        file = into / str(len(found))
        if (entry.size, _copy(stream, file)) != listed[entry.name]:
            raise _damaged(called, f"{entry.name} is not as it was written")
        found[entry.name] = file
    if missing := listed.keys() - found.keys():
        raise _damaged(called, f"{min(missing)} is missing")
    return Backup(about, found)


def _damaged(called: str, why: str) -> Error:
    return Error(f"{called} is damaged: {why}", hint="nothing was changed; use another backup")


def _entry(name: str, size: int) -> tarfile.TarInfo:
    entry = tarfile.TarInfo(name)
    entry.size = size
    entry.mode = 0o600
    return entry


def _copy(source: IO[bytes], file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("xb") as target:
        while chunk := source.read(_CHUNK):
            digest.update(chunk)
            target.write(chunk)
    return digest.hexdigest()


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
