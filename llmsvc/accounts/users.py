"""The people and programs that may have keys. Hidden users do not exist for these functions."""

from __future__ import annotations

import dataclasses
import datetime
import re
from typing import TYPE_CHECKING, TypedDict

from psycopg.rows import class_row

from llmsvc.database import Connection
from llmsvc.errors import ConflictError, NotFoundError, UsageError

if TYPE_CHECKING:
    from typing_extensions import Unpack

ROLES = ("user", "admin")
_NAME = re.compile(r"[a-z0-9][a-z0-9._@-]{0,62}\Z")
NAME_RULE = "lower-case letters, digits, '.', '_', '@' and '-', at most 63, the first a letter or digit"

_SELECT = """
SELECT u.id, u.username, u.role, u.enabled, u.rate_limit, u.concurrent, u.tokens_per_minute, u.tokens_per_day,
       u.max_tokens, u.weight, u.models, u.may_switch, u.created_at, u.removed_at,
       count(k.id) FILTER (WHERE k.revoked_at IS NULL AND (k.expires_at IS NULL OR k.expires_at > now()))
           AS active_keys,
       max(k.last_used_at) AS last_used_at
  FROM llama_users u
  LEFT JOIN llama_api_keys k ON k.user_id = u.id
"""


@dataclasses.dataclass(frozen=True)
class User:
    """A user. A limit of None is the default of config.env.

    The limits are requests per window and at once, tokens in and out per minute and day, and the tokens of
    the longest answer. `weight`: its turns in the queue for each one of a user with weight 1. `models`: the
    names that it may use, None for all. `may_switch`: its requests may start the model that they name, with
    LLAMA_PROXY_AUTOSWITCH.
    """

    id: int
    username: str
    role: str
    enabled: bool
    rate_limit: int | None
    concurrent: int | None
    tokens_per_minute: int | None
    tokens_per_day: int | None
    max_tokens: int | None
    weight: int
    models: list[str] | None
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
    """What of a user can be set, as User has it."""

    role: str
    rate_limit: int | None
    concurrent: int | None
    tokens_per_minute: int | None
    tokens_per_day: int | None
    max_tokens: int | None
    weight: int
    models: list[str] | None
    may_switch: bool


def create(connection: Connection, username: str, **settings: Unpack[Changes]) -> User:
    """A new user without keys.

    :raises UsageError: the name is not allowed
    :raises ConflictError: the name is taken, or was taken by a user that is removed
    """
    if not valid_name(username):
        raise UsageError(f"{username[:80]!r} cannot be a user name", hint=f"allowed: {NAME_RULE}")
    created = connection.execute(
        "INSERT INTO llama_users (username) VALUES (%s) ON CONFLICT (username) DO NOTHING RETURNING id",
        [username],
    ).fetchone()
    if created is None:
        raise _taken(connection, username)
    return change(connection, username, settings)


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
    columns = ", ".join(f"{name} = %({name})s" for name in Changes.__annotations__ if name in changes)
    if columns:
        text = f"UPDATE llama_users SET {columns} WHERE id = %(id)s"  # noqa: S608 - no value is in it
        connection.execute(text.encode(), {**changes, "id": user.id})
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
