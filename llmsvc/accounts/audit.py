"""Who changed what: one row in llama_audit for every changing command."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

from llmsvc.database import Connection

_NO_LOGIN = 2**32 - 1
_LOGINUID = Path("/proc/self/loginuid")


def record(connection: Connection, verb: str, thing: str) -> None:
    """Writes the row; belongs into the transaction of the change.

    :param verb: the command as it is typed: `user add`
    :param thing: what it was done to; never a secret
    """
    connection.execute(
        "INSERT INTO llama_audit (actor, verb, object) VALUES (%s, %s, %s)", [actor(), verb, thing]
    )


def actor() -> str:
    """The login name of the person behind this process, also behind sudo and su."""
    if os.getuid() == 0 and os.environ.get("SUDO_USER"):
        return os.environ["SUDO_USER"]
    uid = os.getuid()
    try:
        login = int(_LOGINUID.read_text())
    except (OSError, ValueError):
        login = _NO_LOGIN
    try:
        return pwd.getpwuid(uid if login == _NO_LOGIN else login).pw_name
    except KeyError:
        return f"uid {uid}"
