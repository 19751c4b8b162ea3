"""What ran before an installation runs again once it was put back, and nobody else's work is disturbed."""

from __future__ import annotations

import pytest

from installer import services
from llmsvc.systemd import manager


@pytest.mark.parametrize(
    ("active", "asked"),
    [
        (True, []),
        (
            False,
            [
                # else systemd may say that it was started too often
                ["systemctl", "reset-failed", "postgresql.service"],
                ["systemctl", "restart", "postgresql.service"],
            ],
        ),
    ],
)
def test_postgresql_is_started_where_it_stands_still_and_else_left_alone(
    monkeypatch: pytest.MonkeyPatch, active: bool, asked: list[list[str]]
) -> None:
    # somebody restarted or stopped it since the snapshot
    now = services.Unit(active=active, enabled=True, run="later" if active else "")
    did: list[list[str]] = []
    monkeypatch.setattr(manager, "daemon_reload", lambda: None)
    monkeypatch.setattr(services, "units", lambda names: dict.fromkeys(names, now))
    monkeypatch.setattr(services, "stop", lambda names: None)
    monkeypatch.setattr(services, "run", lambda argv, **_: did.append(argv))
    services.return_to({"model": None, "runs": {services.POSTGRESQL: "before"}})
    assert did == asked
