"""What the tests of `llmsvc doctor` share."""

from __future__ import annotations

from subprocess import CompletedProcess
from typing import Any

import pytest

from installer.doctor import machine


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """What programs print, by the first two words of their command."""
    prints: dict[str, str] = {}

    def run(argv: list[str], **_: Any) -> CompletedProcess[str]:
        return CompletedProcess(argv, 0, prints.get(" ".join(str(word) for word in argv[:2]), ""), "")

    monkeypatch.setattr(machine, "run", run)
    return prints
