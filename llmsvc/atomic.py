"""Writes files that are there whole or not at all. The only place that does."""

from __future__ import annotations

import contextlib
import os
import tempfile
from pathlib import Path


def write(file: Path, text: str, mode: int, *, sync: bool = True) -> None:
    """Replaces a file, or makes it: a reader sees the old text or the new, whenever we are killed.

    :param mode: its permissions, whatever the umask
    :param sync: survive a power cut too
    :raises OSError: with the file's own name; the old text is still there
    """
    temporary = None
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(descriptor, mode)
            stream.write(text)
            stream.flush()
            if sync:
                os.fsync(descriptor)
        Path(temporary).replace(file)
    except BaseException as error:
        if temporary is not None:
            with contextlib.suppress(OSError):
                Path(temporary).unlink()
        if isinstance(error, OSError):
            raise OSError(error.errno, error.strerror, str(file)) from None
        raise
