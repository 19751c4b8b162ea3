"""What is known of a model file: beside each FILE.gguf stands FILE.gguf.sha256, as sha256sum(1) reads and
writes it. Comments tell the file's origin, and what the file looked like when the sum was last found right.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import re
from collections.abc import Callable
from pathlib import Path

from llmsvc import atomic
from llmsvc.errors import ModelError

_CHUNK = 1 << 20
_SUM = re.compile(r"([0-9a-f]{64})  ", re.MULTILINE)
_ORIGIN = re.compile(r"# source: (.*)$", re.MULTILINE)
_COMMIT = re.compile(r"# commit: (.*)$", re.MULTILINE)
_CHECKED = re.compile(r"# checked: (.*)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Record:
    """What is known of a model file: its contents' sha256 and where it came from (str of a Source).

    :ivar commit: of the hub's repository, in which the file was found
    :ivar checked: _stamp() of the file when the sum was last found right; empty if that is not known
    """

    sha256: str
    origin: str
    commit: str = ""
    checked: str = dataclasses.field(default="", compare=False)


def read(file: Path) -> Record | None:
    """The record beside a model file; None where it is absent or unreadable."""
    try:
        text = _beside(file).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    digest, *others = (pattern.search(text) for pattern in (_SUM, _ORIGIN, _COMMIT, _CHECKED))
    origin, commit, checked = (found[1] if found else "" for found in others)
    return Record(digest[1], origin, commit, checked) if digest else None


def write(file: Path, made: Record, like: Path | None = None) -> None:
    """Writes that `file`, or `like`, which is to become it, has this sum now."""
    lines = [f"# source: {made.origin}"] if made.origin else []
    lines += [f"# commit: {made.commit}"] if made.commit else []
    lines += [f"# checked: {_stamp(like or file, made.sha256)}", f"{made.sha256}  {file.name}", ""]
    atomic.write(_beside(file), "\n".join(lines), 0o644)


def remove(file: Path) -> None:
    """Removes the record of a file that is gone."""
    _beside(file).unlink(missing_ok=True)


def find(directory: Path, origin: str) -> Path | None:
    """A model file that came from `origin`."""
    for side in sorted(directory.glob("*.gguf.sha256")):
        file = side.with_suffix("")
        found = read(file)
        if found and found.origin == origin and file.is_file():
            return file
    return None


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


def check(file: Path, progress: Callable[[int], None] | None = None, *, whole: bool = False) -> bool:
    """Compares a file with its recorded sum; one without a record is fine.

    It is read only if it, or the record, is not as it was when the sum was last found right.

    :param whole: read it in any case
    :returns: whether there was a sum to compare with
    :raises ModelError: the contents are others; or the file is gone
    """
    made = read(file)
    if made is None:
        return False
    try:
        stamp = _stamp(file, made.sha256)
        if made.checked == stamp and not whole:
            return True
        found = sha256(file, progress)
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", file=file) from None
    if found != made.sha256:
        raise ModelError(
            f"is damaged, or another file: its sha256 is {found}, and {made.sha256} is recorded",
            file=file,
            hint="remove the model and add it again",
        )
    if stamp == _stamp(file, made.sha256) != made.checked:
        # who may not write here, as members of llmsvc-admin, reads it again the next time
        with contextlib.suppress(OSError):
            write(file, made)
    return True


def _beside(file: Path) -> Path:
    return file.with_name(f"{file.name}.sha256")


def _stamp(file: Path, sha256: str) -> str:
    status = file.stat()
    return f"{sha256} {status.st_size} {status.st_mtime_ns} {status.st_ino}"
