"""The model files in LLAMA_MODELS_DIR: how one gets in complete and checked, or not at all.

What is on its way lies in a work directory below `.incoming`, which only root can enter. Half of a download
(`*.part`) stays there for a week, so that the next try goes on with it.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from llmsvc.errors import ConflictError
from llmsvc.library import records, space
from llmsvc.library.records import Record

_CHUNK = 1 << 20
_SPACE_BYTES = 64 << 20
"""How much is written between two looks at what is left of the file system."""
_KEPT_SECONDS = 7 * 86400
INCOMING = ".incoming"
"""Directory of root's own beside the models, for what is not finished."""
_PART = "*.part"


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
def names_locked(models: Path) -> Iterator[None]:
    """Holds the lock under which files and instances get their names."""
    # a file, for NFS locks no directory
    with file_locked(_incoming(models) / ".names"):
        yield


@contextlib.contextmanager
def file_locked(lock: Path) -> Iterator[None]:
    """Holds an exclusive lock on a file of root's own, which is made where it is not there."""
    fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        _flock(fd, "")
        yield
    finally:
        os.close(fd)


@contextlib.contextmanager
def work_directory(models: Path, origin: str) -> Iterator[Path]:
    """A directory on the file system of the models; afterwards only half downloads (`*.part`) are left of it.

    Only one process at a time has the one for an `origin`; others wait. What killed ones left is removed.
    """
    make_directory(models)
    incoming = _incoming(models)
    key = hashlib.sha256(origin.encode()).hexdigest()[:16]
    _sweep(incoming)
    work, lock = incoming / key, incoming / f"{key}.lock"
    fd = _lock_file(lock, waiting=f"another process is adding {origin}: waiting for it")
    try:
        _clean(work)
        work.mkdir(mode=0o700, exist_ok=True)
        yield work
    finally:
        _clean(work)
        lock.unlink(missing_ok=True)
        os.close(fd)


def _incoming(models: Path) -> Path:
    incoming = models / INCOMING
    incoming.mkdir(mode=0o700, exist_ok=True)
    return incoming


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
    """Cleans the work directories that no process has."""
    for key in {entry.stem for entry in incoming.iterdir() if not entry.name.startswith(".")}:
        lock = incoming / f"{key}.lock"
        with contextlib.suppress(OSError):
            fd = os.open(lock, os.O_RDWR | os.O_CREAT, 0o600)
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(fd), lock.stat()):
                    _clean(incoming / key)
                    lock.unlink()
            finally:
                os.close(fd)


def _clean(work: Path) -> None:
    """Removes a work directory but for the half downloads in it that somebody may go on with."""
    if not work.is_dir():
        return
    oldest = time.time() - _KEPT_SECONDS
    for entry in work.iterdir():
        with contextlib.suppress(OSError):
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            elif not entry.match(_PART) or entry.stat().st_mtime < oldest or not entry.stat().st_size:
                entry.unlink()
    with contextlib.suppress(OSError):
        work.rmdir()


def link(file: Path, target: Path) -> bool:
    """Makes `target` a hard link to `file`; False where it lies on another file system, or where the service,
    which is neither its owner nor in its group, may not read it."""
    status = file.stat()
    if not status.st_mode & stat.S_IROTH or status.st_dev != target.parent.stat().st_dev:
        return False
    try:
        os.link(file, target)
    except OSError:
        return False
    return True


def copy(file: Path, target: Path, progress: Callable[[int], None] | None = None) -> str:
    """Copies `file`, and returns its sha256.

    :param progress: called with the bytes written so far
    :raises FullError: there is no room for it, before or meanwhile
    """
    space.require(target.parent, file.stat().st_size)
    digest, done, looked = hashlib.sha256(), 0, 0
    try:
        with file.open("rb") as source, target.open("xb") as out:
            while chunk := source.read(_CHUNK):
                out.write(chunk)
                digest.update(chunk)
                done += len(chunk)
                if progress:
                    progress(done)
                if done - looked >= _SPACE_BYTES:
                    space.check(target.parent)
                    looked = done
    except OSError as error:
        if space.is_full(error):
            raise space.full(target.parent) from None
        raise
    return digest.hexdigest()


def publish(
    staged: Sequence[Path], choices: Sequence[Sequence[Path]], made: Sequence[Record]
) -> tuple[Path, bool]:
    """Gives a model's finished files the first names that are free, or that have the same contents already.

    :param staged: one file, or the parts of a split one
    :param choices: names for them, the best first
    :returns: the first file's name, and whether it is new there
    :raises ConflictError: all names belong to other contents
    """
    with names_locked(choices[0][0].parent):
        for targets in choices:
            if not any(target.exists() for target in targets):
                replace(staged, targets, made)
                return targets[0], True
            if all(map(_same, staged, targets, made)):
                return targets[0], False
    raise ConflictError(
        f"{choices[0][0]} exists with other contents", hint="move it away, or choose a --name"
    )


def replace(staged: Sequence[Path], targets: Sequence[Path], made: Sequence[Record]) -> None:
    """Gives finished files their names, whatever has them now; the first part last, for it stands for all.

    A record comes before its file: no file is without one.
    """
    for file, target, known in reversed(list(zip(staged, targets, made, strict=True))):
        if file.stat().st_nlink == 1:
            file.chmod(0o644)
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
        records.write(target, known, like=file)
        file.replace(target)


def _same(staged: Path, target: Path, made: Record) -> bool:
    if not target.exists():
        return False
    known = records.read(target)
    if target.samefile(staged) and known:
        return True
    if target.stat().st_size != staged.stat().st_size:
        return False
    if (known.sha256 if known else records.sha256(target)) != made.sha256:
        return False
    if known is None:
        records.write(target, made)
    return True


def make_directory(directory: Path) -> None:
    """Makes a directory that everybody may read, whatever our umask; one that exists stays as it is."""
    if not directory.is_dir():
        if not directory.parent.is_dir():
            make_directory(directory.parent)
        # exist_ok: another process may make it at the same time
        directory.mkdir(exist_ok=True)
        directory.chmod(0o755)
