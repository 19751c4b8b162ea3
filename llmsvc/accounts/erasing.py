"""Takes a person's name out of the database, and keeps the numbers.

A person is a user, or an end user: somebody whom a trusted front end named.
"""

from __future__ import annotations

import dataclasses
import hashlib
import secrets

from llmsvc.accounts import users
from llmsvc.database import Connection
from llmsvc.errors import NotFoundError

PREFIX = "erased-"

_ON_THEIR_WAY = "7 days"
"""So late the row of a request may come: it ran on, or waited in the spool of a proxy that was stopped."""


@dataclasses.dataclass(frozen=True)
class EndUser:
    """An erased end user: what it is called from now on, and the user of the front end that named it."""

    username: str
    alias: str


def check(connection: Connection, username: str) -> None:
    """Raises NotFoundError unless erase() would find that user."""
    _find(connection, username)


def erase(connection: Connection, username: str) -> str:
    """Removes the user, if that was not done yet, renames it everywhere and returns its new name.

    The new name is never used again. Client addresses go as well, the names of its keys, those of its end
    users, and an end user of the same name in any front end. Rows of the user that the ledger still holds get
    the new name when they come. Belongs into a transaction: the ledger's rows wait in their spool until it
    ends.

    :raises NotFoundError: there never was such a user
    """
    user_id, removed = _find(connection, username)
    _hold_rows_back(connection)
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
    # the object of such a row is USER, USER/KEY (DETAIL) or USER SETTING=VALUE
    connection.execute(
        "UPDATE llama_audit"
        " SET object = rtrim(%(new)s || regexp_replace(substr(object, length(%(old)s) + 1), '^/[^(]*', ' '))"
        " WHERE verb ~ '^(user|key) ' AND (object = %(old)s OR left(object, length(%(old)s) + 1)"
        " IN (%(old)s || '/', %(old)s || ' '))",
        {"new": new, "old": username},
    )
    named = connection.execute(
        "SELECT DISTINCT end_user FROM llama_usage_daily"
        " WHERE username = %s AND end_user <> '' AND end_user !~ '^erased(-[0-9]{1,9})?$'",
        [new],
    )
    _rename_end_users(connection, new, [name for (name,) in named])
    for front_end in _front_ends(connection, username, None):
        _erase_end_user(connection, front_end, username)
    return new


def erase_end_user(connection: Connection, end_user: str, username: str | None = None) -> list[EndUser]:
    """Renames an end user in the requests and sums of all front ends, or in those of one.

    Client addresses go as well. Rows that the ledger still holds get the new name when they come; a request
    that comes later is somebody new. Belongs into a transaction, see erase().

    :param username: the user of the front end
    :raises NotFoundError: nobody of that name ever asked
    """
    check_end_user(connection, end_user, username)
    _hold_rows_back(connection)
    return [
        EndUser(front_end, _erase_end_user(connection, front_end, end_user))
        for front_end in _front_ends(connection, end_user, username)
    ]


def check_end_user(connection: Connection, end_user: str, username: str | None = None) -> list[str]:
    """The users of the front ends that named this end user, if any did.

    :raises NotFoundError: none did, or there is no such user
    """
    if username is not None:
        _find(connection, username)
    found = _front_ends(connection, end_user, username)
    if not found:
        similar = connection.execute(
            "SELECT DISTINCT end_user FROM llama_usage_daily"
            " WHERE lower(end_user) = lower(%s) AND end_user <> '' ORDER BY 1 LIMIT 3",
            [end_user],
        )
        names = ", ".join(name for (name,) in similar)
        raise NotFoundError(
            f"no front end ever named {end_user[:128]!r}",
            hint=f"did you mean {names}?" if names else "see 'llmsvc usage --by end-user --since 2020-01-01'",
        )
    return found


def forget(connection: Connection) -> None:
    """Removes what was kept to know late rows of erased end users by."""
    connection.execute(
        "DELETE FROM llama_erased_end_users WHERE erased_at < now() - %s::interval", [_ON_THEIR_WAY]
    )


def _hold_rows_back(connection: Connection) -> None:
    """Until the end of the transaction no row comes in, neither under an old name nor counted under it."""
    connection.execute("LOCK TABLE llama_requests IN SHARE ROW EXCLUSIVE MODE")


def _front_ends(connection: Connection, end_user: str, username: str | None) -> list[str]:
    rows = connection.execute(
        "SELECT DISTINCT username FROM llama_usage_daily"
        " WHERE end_user = %(end_user)s AND end_user <> ''"
        " AND (%(username)s::text IS NULL OR username = %(username)s) ORDER BY 1",
        {"end_user": end_user, "username": username},
    )
    return [name for (name,) in rows]


def _erase_end_user(connection: Connection, username: str, end_user: str) -> str:
    (alias,) = _rename_end_users(connection, username, [end_user])
    salt = secrets.token_bytes(16)
    connection.execute(
        "INSERT INTO llama_erased_end_users (user_id, alias, salt, digest)"
        " SELECT id, %s, %s, %s FROM llama_users WHERE username = %s",
        [alias, salt, hashlib.sha256(salt + end_user.encode()).digest(), username],
    )
    return alias


def _rename_end_users(connection: Connection, username: str, old: list[str]) -> list[str]:
    """Gives end users of one front end new names, in an order that tells nothing, and returns these."""
    row = connection.execute(
        "SELECT coalesce(max(substring(end_user FROM '^erased-([0-9]{1,9})$')::int), 0)"
        " FROM llama_usage_daily WHERE username = %s",
        [username],
    ).fetchone()
    taken = int(row[0]) if row else 0
    aliases = [f"{PREFIX}{taken + number + 1}" for number in range(len(old))]
    secrets.SystemRandom().shuffle(aliases)
    for table, also in (("llama_requests", ", client_addr = NULL"), ("llama_usage_daily", "")):
        connection.execute(
            f"UPDATE {table} t SET end_user = n.alias{also}"  # noqa: S608 - no value is in it
            " FROM unnest(%s::text[], %s::text[]) n (old, alias)"
            " WHERE t.username = %s AND t.end_user = n.old".encode(),
            [old, aliases, username],
        )
    return aliases


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
