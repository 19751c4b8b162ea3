"""Takes a person's name out of the database, and keeps the numbers."""

from __future__ import annotations

from llmsvc.accounts import users
from llmsvc.database import Connection
from llmsvc.errors import NotFoundError

PREFIX = "erased-"


def check(connection: Connection, username: str) -> None:
    """Raises NotFoundError unless erase() would find that user."""
    _find(connection, username)


def erase(connection: Connection, username: str) -> str:
    """Removes the user, if that was not done yet, renames it everywhere and returns its new name.

    The new name is never used again. Client addresses go as well, and the names of its keys. Rows of the user
    that the ledger still holds get the new name when they come. Belongs into a transaction: the ledger's rows
    wait in their spool until it ends.

    :raises NotFoundError: there never was such a user
    """
    user_id, removed = _find(connection, username)
    # from here on no row comes in between, neither under the old name nor counted under it
    connection.execute("LOCK TABLE llama_requests IN SHARE ROW EXCLUSIVE MODE")
    if not removed:
        users.remove(connection, username)
    new = _free_name(connection, user_id)
    connection.execute(
        "UPDATE llama_users SET username = %s, erased_at = now() WHERE id = %s", [new, user_id]
    )
    connection.execute(
        "UPDATE llama_requests SET username = %s, client_addr = NULL WHERE username = %s", [new, username]
    )
    connection.execute("UPDATE llama_usage_daily SET username = %s WHERE username = %s", [new, username])
    connection.execute("UPDATE llama_api_keys SET name = 'key-' || id WHERE user_id = %s", [user_id])
    # the object of such a row is USER, USER/KEY (PREFIX) or USER SETTING=VALUE
    connection.execute(
        "UPDATE llama_audit"
        " SET object = rtrim(%(new)s || regexp_replace(substr(object, length(%(old)s) + 1), '^/[^(]*', ' '))"
        " WHERE verb ~ '^(user|key) ' AND (object = %(old)s OR left(object, length(%(old)s) + 1)"
        " IN (%(old)s || '/', %(old)s || ' '))",
        {"new": new, "old": username},
    )
    return new


def _find(connection: Connection, username: str) -> tuple[int, bool]:
    """Id of the user, and whether it is removed already."""
    row = None
    if users.valid_name(username):
        row = connection.execute(
            "SELECT id, removed_at IS NOT NULL FROM llama_users"
            " WHERE username = %s AND NOT hidden AND erased_at IS NULL",
            [username],
        ).fetchone()
    if row is None:
        raise NotFoundError(f"there is no user {username[:80]!r}", hint="see 'llmsvc user list'")
    return int(row[0]), bool(row[1])


def _free_name(connection: Connection, user_id: int) -> str:
    """`erased-` and the user's id, or with a further number where somebody has chosen that name."""
    taken = {
        name for (name,) in connection.execute("SELECT username FROM llama_users WHERE username ~ '^erased-'")
    }
    name, number = f"{PREFIX}{user_id}", 1
    while name in taken:
        number += 1
        name = f"{PREFIX}{user_id}-{number}"
    return name
