"""The key directory: all keys that may be used now, as the proxy keeps them in memory.

A statement on llama_users or llama_api_keys that changes it notifies CHANNEL.
"""

from __future__ import annotations

import dataclasses
import datetime
from typing import Any

import psycopg
from psycopg.rows import class_row

CHANNEL = "llama_keys"

QUERY = """
SELECT k.id AS key_id, k.digest, k.prefix, u.id AS user_id, u.username, u.role, u.hidden, u.rate_limit,
       u.may_switch, k.expires_at
  FROM llama_api_keys k
  JOIN llama_users u ON u.id = k.user_id
 WHERE u.enabled
   AND u.removed_at IS NULL
   AND k.revoked_at IS NULL
   AND (k.expires_at IS NULL OR k.expires_at > now())
"""
"""Columns are the fields of KeyRecord: `connection.cursor(row_factory=class_row(KeyRecord))`, also async."""


@dataclasses.dataclass(frozen=True, slots=True)
class KeyRecord:
    """A key that may be used, and its user.

    `rate_limit` (requests per window) is None for the default; with `may_switch` a request may start the
    model that it names.
    """

    key_id: int
    digest: bytes
    prefix: str
    user_id: int
    username: str
    role: str
    hidden: bool
    rate_limit: int | None
    expires_at: datetime.datetime | None
    may_switch: bool = False


def load(connection: psycopg.Connection[Any]) -> list[KeyRecord]:
    """All keys that may be used now."""
    with connection.cursor(row_factory=class_row(KeyRecord)) as cursor:
        return cursor.execute(QUERY).fetchall()
