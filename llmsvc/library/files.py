"""The model files in LLAMA_MODELS_DIR: how one gets in complete and checked, or not at all.

What is on its way lies in a work directory below `.incoming`, which only root can enter. Beside each
FILE.gguf stands FILE.gguf.sha256, as sha256sum(1) reads and writes it. Comments in it tell the file's
origin, and what the file looked like when the sum was last found right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import hashlib
import os
import re
import shutil
import stat
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from llmsvc import atomic
from llmsvc.errors import ConflictError, Error, ModelError
from llmsvc.library.progress import size as human

RESERVE = 512 << 20
"""Bytes that a new model must leave free on its file system."""
_CHUNK = 1 << 20
_SUM = re.compile(r"([0-9a-f]{64})  ", re.MULTILINE)
_ORIGIN = re.compile(r"# source: (.*)$", re.MULTILINE)
_CHECKED = re.compile(r"# checked: (.*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of a model file: its contents' sha256 and where it came from (str of a Source).

    :ivar checked: _stamp() of the file when the sum was last found right; empty if that is not known
    """

    sha256: str
    origin: str
    checked: str = dataclasses.field(default="", compare=False)


def record(file: Path) -> Record | None:
    """The record beside a model file; None where it is absent or unreadable."""
    try:
        text = file.with_name(f"{file.name}.sha256").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    digest, origin, checked = (pattern.search(text) for pattern in (_SUM, _ORIGIN, _CHECKED))
    return Record(digest[1], origin[1] if origin else "", checked[1] if checked else "") if digest else None


def find(directory: Path, origin: str) -> Path | None:
    """A model file that came from `origin`."""
    for side in sorted(directory.glob("*.gguf.sha256")):
        file = side.with_suffix("")
        found = record(file)
        if found and found.origin == origin and file.is_file():
            return file
    return None


INCOMING = ".incoming"
"""Directory of root's own beside the models, for what is not finished."""


@contextlib.contextmanager
def locked(path: Path, *, waiting: str = "") -> Iterator[None]:
    """Holds an exclusive lock on a directory that only root may open: others could keep us waiting.

    :param waiting: said on stderr if somebody else holds it
    """
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _flock(fd, waiting)
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def work_directory(models: Path, origin: str) -> Iterator[Path]:
    """An empty directory on the file system of the models, gone afterwards with all that is still in it.

    Only one process at a time has the one for an `origin`; others wait. What killed ones left is removed.
    """
    make_directory(models)
    incoming = models / INCOMING
    incoming.mkdir(mode=0o700, exist_ok=True)
    key = hashlib.sha256(origin.encode()).hexdigest()[:16]
    _sweep(incoming)
    work, lock = incoming / key, incoming / f"{key}.lock"
    fd = _lock_file(lock, waiting=f"another process is adding {origin}: waiting for it")
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(mode=0o700)
        yield work
    finally:
        shutil.rmtree(work, ignore_errors=True)
        lock.unlink(missing_ok=True)
        os.close(fd)


def _lock_file(lock: Path, *, waiting: str) -> int:
    """Locks a file that its holder removes at the end: so what was locked may be gone by then."""
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
        _flock(fd, waiting)
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), lock.stat()):
                return fd
        os.close(fd)


def _flock(fd: int, waiting: str) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        if waiting:
            print(waiting, file=sys.stderr, flush=True)
        fcntl.flock(fd, fcntl.LOCK_EX)


def _sweep(incoming: Path) -> None:
    for lock in incoming.glob("*.lock"):
        with contextlib.suppress(OSError):
            fd = os.open(lock, os.O_RDWR)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), lock.stat()):
                    shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                    lock.unlink()
            finally:
                os.close(fd)


def require_space(directory: Path, needed: int) -> None:
    """:raises Error: the file system has not `needed` bytes and RESERVE free"""
    free = shutil.disk_usage(directory).free
    if free < needed + RESERVE:
        raise Error(
            f"not enough space in {directory}: {human(needed)} needed beside a reserve of {human(RESERVE)}, "
            f"{human(free)} free",
            hint="free some space, or set LLAMA_MODELS_DIR in /etc/llmsvc/config.env to another disk",
        )


def link(file: Path, directory: Path) -> Path | None:
    """A hard link to `file` in `directory`; None where it lies on another file system, or where the
    service, which is neither its owner nor in its group, may not read it."""
    status = file.stat()
    if not status.st_mode & stat.S_IROTH or status.st_dev != directory.stat().st_dev:
        return None
    target = directory / "linked.gguf"
    try:
        os.link(file, target)
    except OSError:
        return None
    return target


def copy(file: Path, directory: Path) -> Path:
    """A copy of `file` in `directory`."""
    require_space(directory, file.stat().st_size)
    target = directory / "copied.gguf"
    with file.open("rb") as source, target.open("xb") as out:
        shutil.copyfileobj(source, out, _CHUNK)
    return target


def sha256(file: Path, progress: Callable[[int], None] | None = None) -> str:
    """The contents' sha256, in hexadecimal.

    :param progress: called with the bytes read so far
    """
    digest, done = hashlib.sha256(), 0
    with file.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
            done += len(chunk)
            if progress:
                progress(done)
    return digest.hexdigest()


def check(file: Path, progress: Callable[[int], None] | None = None) -> None:
    """Compares a file with its recorded sum; one without a record is fine.

    It is read only if it, or the record, is not as it was when the sum was last found right.

    :raises ModelError: the contents are others; or the file is gone
    """
    made = record(file)
    if made is None:
        return
    try:
        stamp = _stamp(file, made.sha256)
        if made.checked == stamp:
            return
        found = sha256(file, progress)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", file=file) from None
    if found != made.sha256:
        raise ModelError(
            f"is damaged, or another file: its sha256 is {found}, and {made.sha256} is recorded",
            file=file,
            hint="remove the model and add it again",
        )
    if stamp == _stamp(file, made.sha256):
        # who may not write here, as members of llmsvc-admin, reads it again the next time
        with contextlib.suppress(OSError):
            _write_record(file, made)


def _stamp(file: Path, sha256: str) -> str:
    status = file.stat()
    return f"{sha256} {status.st_size} {status.st_mtime_ns} {status.st_ino}"


def publish(staged: Path, targets: list[Path], made: Record) -> tuple[Path, bool]:
    """Gives a finished file the first of the names that is free, or that has the same contents already.

    :returns: the name, and whether the file is new there
    :raises ConflictError: all names belong to other contents
    """
    with locked(targets[0].parent / INCOMING):
        for target in targets:
            if not target.exists():
                replace(staged, target, made)
                return target, True
            if _same(staged, target, made):
                return target, False
    raise ConflictError(f"{targets[0]} exists with other contents", hint="move it away, or choose a --name")


def replace(staged: Path, target: Path, made: Record) -> None:
    """Gives a finished file its name, whatever has it now. The record comes first: no file is without one."""
    if staged.stat().st_nlink == 1:
        staged.chmod(0o644)
    with staged.open("rb") as stream:
        os.fsync(stream.fileno())
    _write_record(target, made, like=staged)
    staged.replace(target)


def _write_record(file: Path, made: Record, like: Path | None = None) -> None:
    """Writes that `file`, or what is to become it, has this sum now."""
    lines = [f"# source: {made.origin}"] if made.origin else []
    lines += [f"# checked: {_stamp(like or file, made.sha256)}", f"{made.sha256}  {file.name}", ""]
    atomic.write(file.with_name(f"{file.name}.sha256"), "\n".join(lines), 0o644)


def _same(staged: Path, target: Path, made: Record) -> bool:
    if target.samefile(staged) and record(target):
        return True
    if target.stat().st_size != staged.stat().st_size:
        return False
    known = record(target)
    if (known.sha256 if known else sha256(target)) != made.sha256:
        return False
    if known is None:
        _write_record(target, made)
    return True


def make_directory(directory: Path) -> None:
    """Makes a directory that everybody may read, whatever our umask; one that exists stays as it is."""
    if not directory.is_dir():
        if not directory.parent.is_dir():
            make_directory(directory.parent)
        # exist_ok: another process may make it at the same time
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
