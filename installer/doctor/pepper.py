"""How a pepper that is lost comes back: from the proxy that still runs with it, or from a backup."""

from __future__ import annotations

import contextlib
import json
import shlex
import tarfile
from pathlib import Path

from llmsvc import paths
from llmsvc.accounts import keys, meta
from llmsvc.errors import Error
from llmsvc.systemd import manager

LENT = Path("/run/credentials") / manager.PROXY / "pepper"
"""What systemd gave the proxy at its start; there while it runs."""
_MANIFEST, _MEMBER = "llmsvc-backup.json", "credentials/pepper"
"""In a backup, as llmsvc/backup/archive.py, which is above us, names them."""


def back(fingerprint: str | None) -> str:
    """The fix of a pepper that is missing, damaged or wrong.

    :param fingerprint: of the pepper that the keys in the database were made with; None if it is not known
    """
    place = f"sudo install -d -m 700 {paths.CREDENTIALS} && "
    with contextlib.suppress(Error, OSError):
        if fingerprint in (None, meta.fingerprint(keys.read_pepper(LENT))):
            return f"{place}sudo install -m 600 {LENT} {paths.PEPPER}"
    for backup in _newest_first():
        if fingerprint is not None and _fingerprint(backup) == fingerprint:
            return (
                f"{place}sudo tar -xf {shlex.quote(str(backup))} -C {paths.ETC} {_MEMBER} && "
                f"sudo chown root:root {paths.PEPPER} && sudo chmod 600 {paths.PEPPER}"
            )
    return (
        f"take it out of a backup: {place}sudo tar -xf BACKUP -C {paths.ETC} {_MEMBER}. Where there "
        "is none, no key can ever work again: 'Without the pepper' in docs/operations.md tells how all get "
        "new ones"
    )


def _newest_first() -> list[Path]:
    return sorted(paths.SAVED.glob("*.tar"), key=lambda file: file.stat().st_mtime, reverse=True)


def _fingerprint(backup: Path) -> str | None:
    """That of the pepper in a backup, as its first member tells; None where it does not."""
    with contextlib.suppress(OSError, tarfile.TarError, ValueError, AttributeError):
        with tarfile.open(backup) as tar:
            first = tar.next()
            stream = tar.extractfile(first) if first and first.name == _MANIFEST else None
            if stream is not None:
                told = json.loads(stream.read()).get("pepper_fingerprint")
                return told if isinstance(told, str) else None
    return None
