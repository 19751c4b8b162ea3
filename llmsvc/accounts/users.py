"""The people and programs that may have keys. Hidden users do not exist for these functions."""

from __future__ import annotations

import dataclasses
import datetime
import re
from typing import TypedDict

from psycopg.rows import class_row

from llmsvc.database import Connection
from llmsvc.errors import ConflictError, NotFoundError, UsageError

ROLES = ("user", "admin")
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,62}\Z")
NAME_RULE = "lower-case letters, digits, '.', '_', '@' and '-', at most 63, the first a letter or digit"

_SELECT = """
SELECT u.id, u.username, u.role, u.enabled, u.rate_limit, u.may_switch, u.created_at, u.removed_at,
       count(k.id) FILTER (WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()))
           AS active_keys,
       max(k.last_used_at) AS last_used_at
  FROM llama_users u
  LEFT JOIN llama_api_keys k ON k.user_id = u.id
"""


@dataclasses.dataclass(frozen=True)
class User:
    """A user. `rate_limit` (requests per window) is None for the default of config.env.

    `may_switch`: its requests may start the model that they name, with LLAMA_PROXY_AUTOSWITCH.
    """

    id: int
    username: str
    role: str
    enabled: bool
    rate_limit: int | None
    may_switch: bool
    created_at: datetime.datetime
    removed_at: datetime.datetime | None
    active_keys: int
    last_used_at: datetime.datetime | None

    @property
    def state(self) -> str:
        """`active`, `disabled` or `removed`."""
        return "removed" if self.removed_at else "active" if self.enabled else "disabled"


class Changes(TypedDict, total=False):
    """What of a user can be set; a `rate_limit` of None is the default of config.env."""

    role: str
    rate_limit: int | None
    may_switch: bool


def create(
    connection: Connection,
    username: str,
    *,
    role: str = "user",
    rate_limit: int | None = None,
    may_switch: bool = False,
) -> User:
    """A new user without keys.

    :raises UsageError: the name is not allowed
    :raises ConflictError: the name is taken, or was taken by a user that is removed
    """
    if not valid_name(username):
        raise UsageError(f"{username[:80]!r} cannot be a user name", hint=f"allowed: {NAME_RULE}")
    created = connection.execute(
        "INSERT INTO llama_users (username, role, rate_limit, may_switch) VALUES (%s, %s, %s, %s)"
        " ON CONFLICT (username) DO NOTHING RETURNING id",
        [username, role, rate_limit, may_switch],
    ).fetchone()
    if created is None:
        raise _taken(connection, username)
    return get(connection, username)


def valid_name(username: str) -> bool:
    """Whether a user may be called so."""
    return bool(_NAME.match(username))


def get(connection: Connection, username: str) -> User:
    """The user of that name, also a disabled one.

    :raises NotFoundError: there is none, or it is removed
    """
    if not valid_name(username):
        raise NotFoundError(f"there is no user {username[:80]!r}", hint="see 'llmsvc user list'")
    with connection.cursor(row_factory=class_row(User)) as cursor:
        user = cursor.execute(
            _SELECT + " WHERE u.username = %s AND NOT u.hidden GROUP BY u.id", [username]
        ).fetchone()
    if user is None:
        raise NotFoundError(f"there is no user {username}", hint="see 'llmsvc user list'")
    if user.removed_at:
        raise NotFoundError(f"user {username} was removed on {user.removed_at:%Y-%m-%d}")
    return user


def every(connection: Connection) -> list[User]:
    """All users that are not removed, by name."""
    with connection.cursor(row_factory=class_row(User)) as cursor:
        return cursor.execute(
            _SELECT + " WHERE u.removed_at IS NULL AND NOT u.hidden GROUP BY u.id ORDER BY u.username"
        ).fetchall()


def change(connection: Connection, username: str, changes: Changes) -> User:
    """Sets what `changes` holds and leaves the rest as it is.

    :raises NotFoundError: there is no such user
    """
    user = dataclasses.replace(get(connection, username), **changes)
    connection.execute(
        "UPDATE llama_users SET role = %s, rate_limit = %s, may_switch = %s WHERE id = %s",
        [user.role, user.rate_limit, user.may_switch, user.id],
    )
    return user


def set_enabled(connection: Connection, username: str, enabled: bool) -> User:
    """Lets the user's keys work, or not, until it is said otherwise.

    :raises NotFoundError: there is no such user
    """
    user = get(connection, username)
    if user.enabled != enabled:
        connection.execute("UPDATE llama_users SET enabled = %s WHERE id = %s", [enabled, user.id])
    return dataclasses.replace(user, enabled=enabled)


def remove(connection: Connection, username: str) -> User:
    """Revokes the user's keys for good. Its row and ledger stay; the name is never used again.

    :raises NotFoundError: there is no such user
    """
    user = get(connection, username)
    connection.execute(
        "UPDATE llama_api_keys SET revoked_at = now() WHERE user_id = %s AND revoked_at IS NULL", [user.id]
    )
    connection.execute("UPDATE llama_users SET enabled = false, removed_at = now() WHERE id = %s", [user.id])
    return user


def _taken(connection: Connection, username: str) -> ConflictError:
    row = connection.execute(
        "SELECT hidden, removed_at FROM llama_users WHERE username = %s", [username]
    ).fetchone()
    hidden, removed_at = row or (False, None)
    if hidden:
        return ConflictError(f"the user name {username} is the service's own", hint="choose another name")
    if removed_at:
        return ConflictError(
            f"a user {username} was removed on {removed_at:%Y-%m-%d}, and names are never used again",
            hint="choose another name",
        )
    return ConflictError(
        f"user {username} exists already",
        hint=f"for another key: 'llmsvc key add {username}'",
    )
