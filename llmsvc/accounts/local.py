"""The service's own key, for `ask`, `status` and health checks: a hidden user, outside limits and lists."""

from __future__ import annotations

from pathlib import Path

from llmsvc import atomic
from llmsvc.accounts import keys
from llmsvc.database import Connection
from llmsvc.errors import ConflictError

USERNAME = "llmsvc"


def is_current(connection: Connection, pepper: bytes, file: Path) -> bool:
    """Whether the key in `file` is there and works."""
    key = _read(file)
    if key is None:
        return False
    row = connection.execute(
        "SELECT 1 FROM llama_api_keys k JOIN llama_users u ON u.id = k.user_id"
        " WHERE k.digest = %s AND k.revoked_at IS NULL AND u.hidden AND u.enabled",
        [keys.digest(pepper, key)],
    ).fetchone()
    return row is not None


def ensure(connection: Connection, pepper: bytes, file: Path) -> bool:
    """Makes the hidden user, and a key in `file` (mode 0600) that works; returns whether anything changed.

    A key that is in the file but not in the database is kept: we may have been interrupted between the two.

    :raises ConflictError: an ordinary user has the name of the hidden one
    """
    if is_current(connection, pepper, file):
        return False
    with connection.transaction():
        user_id = _hidden_user(connection)
        connection.execute(
            "UPDATE llama_api_keys SET revoked_at = now() WHERE user_id = %s AND revoked_at IS NULL",
            [user_id],
        )
        key = _read(file)
        if (
            key is None
            or connection.execute(
                "SELECT 1 FROM llama_api_keys WHERE digest = %s", [keys.digest(pepper, key)]
            ).fetchone()
        ):
            key = keys.generate()
            atomic.write(file, key + "\n", 0o600)
        connection.execute(
            "INSERT INTO llama_api_keys (user_id, name, prefix, digest) VALUES (%s, 'local', %s, %s)",
            [user_id, keys.display_prefix(key), keys.digest(pepper, key)],
        )
    return True


def _hidden_user(connection: Connection) -> int:
    row = connection.execute(
        "INSERT INTO llama_users AS u (username, hidden) VALUES (%s, true)"
        " ON CONFLICT (username) DO UPDATE SET enabled = true WHERE u.hidden RETURNING id",
        [USERNAME],
    ).fetchone()
    if row is None:
        raise ConflictError(f"a user {USERNAME} exists, but this name is the service's own")
    return int(row[0])


def _read(file: Path) -> str | None:
    try:
        key = file.read_text("ascii", errors="replace").strip()
    except FileNotFoundError:
        return None
    return key if keys.well_formed(key) else None
