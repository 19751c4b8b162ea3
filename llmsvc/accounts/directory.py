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
       k.expires_at, u.may_switch, u.concurrent, u.tokens_per_minute, u.tokens_per_day, u.max_tokens,
       u.weight, u.models, k.on_behalf_of
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
    """A key that may be used, and its user. A limit of None is the default of config.env.

    `rate_limit` is requests per window, `concurrent` requests at once, `max_tokens` the longest answer;
    `tokens_per_minute` and `tokens_per_day` count those in and out. `weight` is the user's turns in the queue
    for each one of a user with weight 1. `models` are the names that it may use, None for all; with
    `may_switch` a request may start the one that it names. `on_behalf_of` is the header, in lower case, in
    which a trusted front end says who is asking.
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
    concurrent: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_day: int | None = None
    max_tokens: int | None = None
    weight: int = 1
    models: tuple[str, ...] | None = None
    on_behalf_of: str | None = None

    def __post_init__(self) -> None:
        if self.models is not None:  # a row's is a list, and so is that of JSON
            object.__setattr__(self, "models", tuple(self.models))


def load(connection: psycopg.Connection[Any]) -> list[KeyRecord]:
    """All keys that may be used now."""
    with connection.cursor(row_factory=class_row(KeyRecord)) as cursor:
        return cursor.execute(QUERY).fetchall()
