"""Who is behind this process: for the audit, and for the journal's entry about a switch."""

from __future__ import annotations

import dataclasses
import os
import pwd
from pathlib import Path

_NO_LOGIN = 2**32 - 1
_LOGINUID = Path("/proc/self/loginuid")


@dataclasses.dataclass(frozen=True)
class Actor:
    """A person. `str()` is `alice (uid 1000)`."""

    name: str
    uid: int

    def __str__(self) -> str:
        return f"{self.name} (uid {self.uid})"


def actor() -> Actor:
    """The person behind this process, also behind sudo and su.

    Only root is asked for SUDO_USER, which anybody can set; sudo(8) sets it itself.
    """
    user = os.environ.get("SUDO_USER")
    if os.getuid() == 0 and user and user != "root":
        try:
            return Actor(user, pwd.getpwnam(user).pw_uid)
        except KeyError:
            return Actor(user, os.getuid())
    uid = os.getuid()
    try:
        login = int(_LOGINUID.read_text())
    except (OSError, ValueError):
        login = _NO_LOGIN
    uid = uid if login == _NO_LOGIN else login
    try:
        return Actor(pwd.getpwuid(uid).pw_name, uid)
    except KeyError:
        return Actor(f"uid {uid}", uid)
