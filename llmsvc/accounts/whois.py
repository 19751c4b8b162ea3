"""Whose is a key that was found somewhere, and what was done with it."""

from __future__ import annotations

import dataclasses
import datetime

from psycopg.rows import class_row

from llmsvc.accounts import keys, keystore
from llmsvc.database import Connection
from llmsvc.errors import NotFoundError, UsageError

_LAST_REQUESTS = 1000
_LOOKED_AT = 20_000
"""Bounds the search in the requests of a user who has many keys."""

_OWNER = f"""
SELECT k.id AS key_id, k.name, k.prefix, u.username, u.role, u.hidden, k.created_at, k.expires_at,
       k.revoked_at, k.last_used_at, k.on_behalf_of, {keystore.STATE} AS state
  FROM llama_api_keys k
  JOIN llama_users u ON u.id = k.user_id
 WHERE k.digest = %s
"""  # noqa: S608 - no value is in it

_ADDRESSES = """
SELECT host(client_addr) AS address, count(*) AS requests, max(created_at) AS last
  FROM (SELECT client_addr, created_at
          FROM (SELECT key_id, client_addr, created_at FROM llama_requests
                 WHERE username = %s ORDER BY created_at DESC LIMIT %s) of_user
         WHERE key_id = %s AND client_addr IS NOT NULL
         ORDER BY created_at DESC LIMIT %s) of_key
 GROUP BY client_addr
 ORDER BY last DESC
"""


@dataclasses.dataclass(frozen=True)
class Owner:
    """A key and its user. `hidden` is the key of this machine's own checks; `state` is as Key has it."""

    key_id: int
    name: str
    prefix: str
    username: str
    role: str
    hidden: bool
    created_at: datetime.datetime
    expires_at: datetime.datetime | None
    revoked_at: datetime.datetime | None
    last_used_at: datetime.datetime | None
    on_behalf_of: str | None
    state: str


@dataclasses.dataclass(frozen=True)
class Address:
    """A client address, in how many of the key's last requests it was, and when last."""

    address: str
    requests: int
    last: datetime.datetime


def look_up(connection: Connection, pepper: bytes, key: str) -> tuple[Owner, list[Address]]:
    """The owner of a key, whatever its state, and where its last requests came from, the latest first.

    :raises UsageError: this is no key, or not the whole of one
    :raises NotFoundError: it looks right, but was not made here
    """
    if not keys.well_formed(key):
        raise UsageError(
            "this is no whole key: its length or its checksum is wrong",
            hint=f"cut off, or mistyped? A key has {keys.LENGTH} characters and begins with {keys.PREFIX}",
        )
    with connection.cursor(row_factory=class_row(Owner)) as cursor:
        owner = cursor.execute(_OWNER, [keys.digest(pepper, key)]).fetchone()
    if owner is None:
        raise NotFoundError(
            "the key is well-formed, but not one of this server's",
            hint="it was made by another server, or with an older pepper",
        )
    with connection.cursor(row_factory=class_row(Address)) as cursor:
        wanted = [owner.username, _LOOKED_AT, owner.key_id, _LAST_REQUESTS]
        return owner, cursor.execute(_ADDRESSES, wanted).fetchall()
