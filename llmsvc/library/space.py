"""How much room a file system must keep free beside models, and what is said where it has too little."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

from llmsvc.errors import Error
from llmsvc.library.progress import size

LEAST = 2 << 30
"""Bytes that stay free at least; of a large file system, a twentieth of it."""
_HINT = "free some space, or set LLAMA_MODELS_DIR in /etc/llmsvc/config.env to another disk"


class FullError(Error):
    """The file system has too little room, before or while something is written."""


def reserve(directory: Path) -> int:
    """Bytes that models leave free on this file system: others live there too."""
    return max(LEAST, shutil.disk_usage(directory).total // 20)


def require(directory: Path, needed: int) -> None:
    """:raises FullError: the file system has not `needed` bytes and the reserve free"""
    free, kept = shutil.disk_usage(directory).free, reserve(directory)
    if free < needed + kept:
        raise FullError(
            f"not enough space in {directory}: {size(needed)} needed beside a reserve of {size(kept)}, "
            f"{size(free)} free",
            hint=_HINT,
            details={"needed": needed, "reserve": kept, "free": free},
        )


def check(directory: Path) -> None:
    """:raises FullError: less than the reserve is left by now"""
    free, kept = shutil.disk_usage(directory).free, reserve(directory)
    if free < kept:
        raise full(directory, f"{size(free)} left of a reserve of {size(kept)}")


def full(directory: Path, left: str = "nothing left") -> FullError:
    """The error of a file system that has filled up meanwhile."""
    return FullError(f"the file system of {directory} filled up meanwhile: {left}", hint=_HINT)


def is_full(error: OSError) -> bool:
    """Whether this is what writing to a full file system, or past a quota, ends with."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)
