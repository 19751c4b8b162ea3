"""systemd/manager.py: what it makes of systemctl's words."""

from __future__ import annotations

import subprocess
from collections.abc import Sequence

import pytest

from llmsvc.errors import CanceledError, DeniedError
from llmsvc.systemd import manager

CHANGED = "Warning: The unit file of llama-server@m.service changed on disk. Run 'systemctl daemon-reload'.\n"


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ("Job for llama-server@m.service canceled.\n", CanceledError),
        ("Failed to start llama-server@m.service: Access denied\n", DeniedError),
    ],
)
def test_a_warning_does_not_hide_why_a_start_failed(
    monkeypatch: pytest.MonkeyPatch, words: str, error: type[Exception]
) -> None:
    def run(argv: Sequence[str], **_: object) -> subprocess.CompletedProcess[str]:
        if "show" in argv:
            return subprocess.CompletedProcess(argv, 0, "Id=llama-server@m.service\nResult=success\n", "")
        return subprocess.CompletedProcess(argv, 1, "", CHANGED + words)

    monkeypatch.setattr(manager, "run", run)
    with pytest.raises(error):
        manager.restart("m")
