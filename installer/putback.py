"""Puts back what the undo journal tells of, one function a kind of entry; each may be repeated."""

from __future__ import annotations

import errno
import grp
import os
import pwd
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from installer import services
from llmsvc.database import dump, provision
from llmsvc.process import run

Entry = dict[str, Any]


def put_back(directory: Path, entry: Entry) -> None:
    """Makes one change undone.

    :param directory: the journal's, with the copies
    :raises Error, OSError: it could not be
    """
    _KINDS[entry["kind"]](directory, entry)


def _file(directory: Path, entry: Entry) -> None:
    path = Path(entry["path"])
    # what a killed atomic.write() left
    for stray in path.parent.glob(f".{path.name}.*"):
        stray.unlink()
    temporary = path.with_name(f".{path.name}.undo")
    if "link" in entry or "copy" in entry:
        # systemctl disable takes a directory of links away with the last of them
        path.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
    if "link" in entry:
        temporary.symlink_to(entry["link"])
    elif "copy" in entry:
        copy = directory / entry["copy"]
        try:
            temporary.hardlink_to(copy)  # takes no room on a disk that is full
        except OSError:
            shutil.copy2(copy, temporary)
            shutil.chown(temporary, copy.stat().st_uid, copy.stat().st_gid)
            sync(temporary)
    else:
        path.unlink(missing_ok=True)
        return
    temporary.replace(path)
    # put back a second time, both are names of one file already, and then a rename does nothing
    temporary.unlink(missing_ok=True)


def _directories(directory: Path, entry: Entry) -> None:
    # those in which the journal itself lies go at the very end
    remove_empty([path for path in entry["paths"] if Path(path) not in directory.parents])


def remove_empty(directories: Sequence[str]) -> None:
    """Removes those directories that are empty.

    :raises OSError: the file system takes no change, as one that is read-only
    """
    for path in directories:
        try:
            Path(path).rmdir()
        except OSError as error:
            if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM, errno.EIO):
                raise


def _appearing(directory: Path, entry: Entry) -> None:
    for path in map(Path, entry["paths"]):
        _remove(path)


def _model(directory: Path, entry: Entry) -> None:
    library = Path(entry["directory"])
    for path in library.iterdir() if library.is_dir() else ():
        whole = path.suffix in (".gguf", ".sha256")
        if path.name not in entry["there"] and not (whole and entry["keep"]):
            _remove(path)


def _users(directory: Path, entry: Entry) -> None:
    for name in entry["users"]:
        if known(pwd.getpwnam, name):
            run(["userdel", name])
    for name in entry["groups"]:
        if known(grp.getgrnam, name):
            run(["groupdel", name])


def _role(directory: Path, entry: Entry) -> None:
    provision.drop_role(provision.Place(entry["host"], entry["port"]), entry["name"])


def _database(directory: Path, entry: Entry) -> None:
    provision.drop_database(provision.Place(entry["host"], entry["port"]), entry["name"])


def _migration(directory: Path, entry: Entry) -> None:
    backup = Path(entry["backup"])
    if backup.exists():  # else it was done at an attempt before this one
        dump.restore(backup)
        backup.unlink()


def _enable(directory: Path, entry: Entry) -> None:
    services.disable(entry["units"])


def _start(directory: Path, entry: Entry) -> None:
    services.stop(entry["units"])


def _services(directory: Path, entry: Entry) -> None:
    services.return_to(entry["before"])


_KINDS: dict[str, Callable[[Path, Entry], None]] = {
    "file": _file,
    "directories": _directories,
    "appearing": _appearing,
    "model": _model,
    "users": _users,
    "role": _role,
    "database": _database,
    "migration": _migration,
    "enable": _enable,
    "start": _start,
    "services": _services,
}


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def known(look_up: Callable[[str], object], name: str) -> bool:
    """Whether there is a user, or a group, of that name."""
    try:
        look_up(name)
    except KeyError:
        return False
    return True


def sync(path: Path) -> None:
    """Has a file survive a power cut."""
    with path.open("rb") as stream:
        os.fsync(stream.fileno())
