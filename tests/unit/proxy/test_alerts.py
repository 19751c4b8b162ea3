"""One alert for each trouble, not one for each look at it."""

from __future__ import annotations

import dataclasses
from typing import cast

import pytest

from llmsvc.proxy import alerts as module
from llmsvc.proxy.alerts import Alerts
from llmsvc.proxy.auth import KeyDirectory
from llmsvc.proxy.ledger import Ledger


@dataclasses.dataclass
class World:
    """What Alerts looks at."""

    database_ok: bool = True
    fill: float = 0.0
    now: float = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()
    monkeypatch.setattr(module, "time", world)
    return world


def make(world: World) -> tuple[Alerts, list[str]]:
    told: list[str] = []
    return Alerts(cast(KeyDirectory, world), cast(Ledger, world), told.append), told


def test_database_is_down_only_after_half_a_minute_and_once_per_outage(world: World) -> None:
    alerts, told = make(world)
    for expected in (["database-down"], ["database-down"] * 2):
        world.database_ok = False
        for _ in range(29):
            world.now += 1
            alerts.look()
        assert len(told) == len(expected) - 1
        for _ in range(100):
            world.now += 1
            alerts.look()
        assert told == expected
        world.database_ok = True
        world.now += 1
        alerts.look()


def test_short_gaps_do_not_add_up(world: World) -> None:
    alerts, told = make(world)
    for second in range(100):
        world.database_ok = second % 20 == 0
        world.now += 1
        alerts.look()
    assert told == []


def test_spool_is_told_of_again_only_after_it_was_half_empty(world: World) -> None:
    alerts, told = make(world)
    for fill in (0.7, 0.76, 0.9, 0.7, 0.8, 0.51, 0.9):
        world.fill = fill
        alerts.look()
    assert told == ["spool-filling"]
    for fill in (0.49, 0.8):
        world.fill = fill
        alerts.look()
    assert told == ["spool-filling"] * 2


def test_unit_that_cannot_be_started_is_a_line_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("llmsvc.process.PATH", "/nonexistent")
    thread = module.start_unit("database-down")
    thread.join(10)
    assert "llmsvc-alert@database-down.service cannot be started: systemctl is not installed" in caplog.text
