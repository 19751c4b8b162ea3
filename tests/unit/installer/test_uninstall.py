"""What an uninstallation takes away beside the files of its manifest."""

from __future__ import annotations

import pytest

from installer import services, uninstall
from installer.manifest import Manifest
from llmsvc.systemd import manager, schedule


def test_schedules_go_before_the_units_that_they_start(monkeypatch: pytest.MonkeyPatch) -> None:
    gone: list[str] = []
    monkeypatch.setattr(schedule, "every", lambda: [schedule.Schedule("coder", ["daily"])])
    monkeypatch.setattr(schedule, "remove", lambda name, times: gone.append(name))
    monkeypatch.setattr(services, "units", lambda names: {})
    monkeypatch.setattr(manager, "instances", list)
    (removal,) = uninstall._units(Manifest())
    assert removal.title == "remove the schedule of coder"
    removal.do()
    assert gone == ["coder"]
