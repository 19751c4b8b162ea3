"""Participants for tests."""

from __future__ import annotations

import time
from typing import Any

from llmsvc.accounts.directory import KeyRecord
from llmsvc.proxy.participants import Participant
from llmsvc.proxy.turns import Waiter


def record(user: str, *, hidden: bool = False, rate_limit: int | None = None, **more: Any) -> KeyRecord:
    """The key of a user; users whose names begin differently are different ones."""
    number = sum(ord(letter) << 8 * place for place, letter in enumerate(user[:6]))
    return KeyRecord(number, b"", "sk-llm-abc", number, user, "user", hidden, rate_limit, None, **more)


def person(user: str, **more: Any) -> Participant:
    """A user that asks for itself."""
    shown = record(user, **more)
    return Participant(str(shown.user_id), shown)


def waiter(user: str, *, weight: int = 1, seconds: float = 60.0, **more: Any) -> Waiter:
    """A request of a user that waits at most so many seconds."""
    return Waiter(person(user, weight=weight), "id", more.pop("deadline", time.monotonic() + seconds), **more)
