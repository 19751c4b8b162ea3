"""Tokens per second over the last minute."""

from __future__ import annotations

import pytest

from llmsvc.proxy import status
from llmsvc.proxy.status import Speed


def test_speed_is_that_of_the_models_time_and_forgets_after_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(status.time, "monotonic", lambda: now)
    speed = Speed()
    assert speed.tokens_per_second() is None
    speed.note(10, 1.0)
    now += 30
    speed.note(50, 1.0)
    speed.note(60, 2.0)
    assert speed.tokens_per_second() == 30.0
    now += 31
    assert speed.tokens_per_second() == 36.7
    now += 60
    assert speed.tokens_per_second() is None


def test_memory_is_bounded_however_many_answers_there_are(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(status.time, "monotonic", lambda: now)
    speed = Speed()
    for number in range(10_000):
        now = 100.0 + number / 50
        speed.note(1, 0.01)
    assert len(speed._seconds) == 60
