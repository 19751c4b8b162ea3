"""The keys of users: made, listed, replaced and revoked. Keys of hidden users do not exist here."""

from __future__ import annotations

import dataclasses
import datetime
import re

from psycopg.rows import class_row

from llmsvc.accounts import front_ends, keys, users
from llmsvc.database import Connection
from llmsvc.errors import ConflictError, NotFoundError, UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@ -]{0,62}\Z")
NAME_RULE = "letters, digits, '.', '_', '@', '-' and blanks, at most 63, the first a letter or digit"

STATE = """CASE WHEN k.revoked_at IS NOT NULL THEN 'revoked'
            WHEN k.expires_at <= now() THEN 'expired'
            WHEN NOT u.enabled THEN 'disabled'
            ELSE 'active' END"""
"""SQL: what may be done with key `k` of user `u`."""

_SELECT = f"""
SELECT k.id, u.username, k.name, k.prefix, k.created_at, k.expires_at, k.revoked_at, k.last_used_at,
       k.on_behalf_of, {STATE} AS state
  FROM llama_api_keys k
  JOIN llama_users u ON u.id = k.user_id
 WHERE NOT u.hidden
"""  # noqa: S608 - no value is in it


@dataclasses.dataclass(frozen=True)
class Key:
    """What is known about a key; the key itself is not. `prefix` is its beginning.

    `on_behalf_of` is the header, in lower case, in which a trusted front end says who is asking. `state` is
    active, expired, revoked, or disabled, as its user is.
    """

    id: int
    username: str
    name: str
    prefix: str
    created_at: datetime.datetime
    expires_at: datetime.datetime | None
    revoked_at: datetime.datetime | None
    last_used_at: datetime.datetime | None
    on_behalf_of: str | None
    state: str


@dataclasses.dataclass(frozen=True)
class NewKey:
    """A key that was just made: the only time that `secret`, the key itself, is known."""

    secret: str = dataclasses.field(repr=False)
    key: Key


def add(
    connection: Connection,
    pepper: bytes,
    username: str,
    *,
    name: str | None = None,
    expires_at: datetime.datetime | None = None,
    on_behalf_of: str | None = None,
) -> NewKey:
    """A new key for a user.

    :param name: what the user's keys are told apart by; without it `key-1`, `key-2`, …
    :param expires_at: when it ends by itself; aware of its zone
    :param on_behalf_of: the header in which a trusted front end says who is asking
    :raises NotFoundError: there is no such user
    :raises UsageError: the name, or the header's, is not allowed
    :raises ConflictError: the user has a key of that name
    """
    if name is not None and not _NAME.match(name):
        raise UsageError(f"{name[:80]!r} cannot be the name of a key", hint=f"allowed: {NAME_RULE}")
    header = None if on_behalf_of is None else front_ends.header(on_behalf_of)
    user = users.get(connection, username)
    # one at a time for a user, for the next free number
    connection.execute("SELECT 1 FROM llama_users WHERE id = %s FOR UPDATE", [user.id])
    if name is None:
        (count,) = connection.execute(
            "SELECT coalesce(max(substring(name FROM '^key-([0-9]{1,9})$')::int), 0)"
            " FROM llama_api_keys WHERE user_id = %s",
            [user.id],
        ).fetchone() or (0,)
        name = f"key-{count + 1}"
    secret = keys.generate()
    created = connection.execute(
        "INSERT INTO llama_api_keys (user_id, name, prefix, digest, expires_at, on_behalf_of)"
        " VALUES (%s, %s, %s, %s, %s, %s)"
        " ON CONFLICT (user_id, name) WHERE revoked_at IS NULL DO NOTHING RETURNING id",
        [user.id, name, keys.display_prefix(secret), keys.digest(pepper, secret), expires_at, header],
    ).fetchone()
    if created is None:
        raise ConflictError(
            f"user {username} has a key {name!r} already",
            hint=f"choose another name, or 'llmsvc key revoke {username}/{name}' first",
        )
    return NewKey(secret, _select(connection, "k.id = %s", created[0])[0])


def active(connection: Connection, username: str | None = None, *, revoked: bool = False) -> list[Key]:
    """All keys that are not revoked, or those of one user; by user and age.

    :param revoked: those as well
    :raises NotFoundError: there is no such user
    """
    condition = "true" if revoked else "k.revoked_at IS NULL"
    if username is None:
        return _select(connection, condition)
    return _select(connection, f"{condition} AND u.id = %s", users.get(connection, username).id)


def rotate(
    connection: Connection,
    pepper: bytes,
    which: str,
    *,
    grace: datetime.timedelta,
    expires_at: datetime.datetime | None = None,
) -> tuple[NewKey, Key]:
    """A new key like the old one, with its name, and the old one, renamed, which ends after `grace`.

    :param which: as for find()
    :param expires_at: when the new key ends; without it, it lives as long as the old one was made for
    :raises ConflictError: the key is revoked
    """
    old = find(connection, which)
    if old.revoked_at:
        raise ConflictError(
            f"key {old.prefix}… ({old.username}/{old.name}) is revoked, there is nothing to replace",
            hint=f"'llmsvc key add {old.username}' makes a new one",
        )
    if expires_at is None and old.expires_at:
        expires_at = datetime.datetime.now(datetime.timezone.utc) + (old.expires_at - old.created_at)
    connection.execute(
        "UPDATE llama_api_keys SET name = %s,"
        " expires_at = least(expires_at, now() + %s), revoked_at = CASE WHEN %s THEN now() END WHERE id = %s",
        [f"{old.name[:40]}.old-{old.id}", grace, not grace, old.id],
    )
    new = add(
        connection,
        pepper,
        old.username,
        name=old.name,
        expires_at=expires_at,
        on_behalf_of=old.on_behalf_of,
    )
    return new, _select(connection, "k.id = %s", old.id)[0]


def revoke(connection: Connection, which: str) -> Key:
    """Ends a key for good and returns it; one that was revoked before stays as it is.

    :param which: the id, the beginning of the key as lists show it, USERNAME/NAME, or a NAME that is unique
    :raises NotFoundError: there is no such key
    :raises ConflictError: there are several keys with that beginning
    """
    key = find(connection, which)
    if key.revoked_at:
        return key
    connection.execute("UPDATE llama_api_keys SET revoked_at = now() WHERE id = %s", [key.id])
    return _select(connection, "k.id = %s", key.id)[0]


def find(connection: Connection, which: str) -> Key:
    """The key that `which` names, one in use rather than a revoked one; see revoke()."""
    username, slash, name = which.partition("/")
    if not which.isprintable():
        raise UsageError(f"{which[:80]!r} does not name a key", hint="see 'llmsvc key list'")
    if which.isascii() and which.isdecimal():
        shown, found = which, _select(connection, "k.id = %s::numeric", which)
    elif which.startswith(keys.PREFIX):
        # whoever pastes a whole key means it, but it must not come back in a message
        shown = keys.display_prefix(which)
        found = _select(connection, "k.prefix = %s", shown)
    elif slash:
        shown = which
        found = _select(connection, "u.username = %s AND k.name = %s", username, name)
    elif found := _select(connection, "k.name = %s AND k.revoked_at IS NULL", which):
        shown = which
    else:
        raise UsageError(
            f"{which[:80]!r} does not name a key",
            hint=f"give its id, its beginning ({keys.PREFIX}…) or USER/NAME, see 'llmsvc key list'",
        )
    found = [key for key in found if not key.revoked_at] or found[-1:]
    if not found:
        raise NotFoundError(f"there is no key {shown}", hint="see 'llmsvc key list'")
    if len(found) > 1:
        ids = ", ".join(str(key.id) for key in found)
        raise ConflictError(f"there are several keys {shown}", hint=f"give the id, one of {ids}")
    return found[0]


def _select(connection: Connection, condition: str, *parameters: object) -> list[Key]:
    with connection.cursor(row_factory=class_row(Key)) as cursor:
        query = f"{_SELECT} AND {condition} ORDER BY u.username, k.id"
        return cursor.execute(query.encode(), parameters).fetchall()
