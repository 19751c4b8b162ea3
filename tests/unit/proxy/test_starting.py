"""Models are stopped on demand only where nobody else is at work on them."""

from __future__ import annotations

import pytest

from llmsvc.errors import ConflictError
from llmsvc.proxy.starting import Systemd
from llmsvc.systemd import manager


@pytest.mark.parametrize("jobs", [set(), {"stop"}, {"restart"}, {"start", "stop"}])
async def test_a_stop_takes_no_other_commands_place(jobs: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stopped: list[str] = []
    monkeypatch.setattr(manager, "jobs", lambda: jobs)
    monkeypatch.setattr(manager, "stop", stopped.append)
    if jobs <= {"stop"}:
        await Systemd().stop("m")
        assert stopped == ["m"]
    else:
        with pytest.raises(ConflictError, match="another command is at work"):
            await Systemd().stop("m")
        assert stopped == []
