"""The plan as a whole is for real machines (tests/machine); here, how it writes settings."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer import plan, services
from installer.undo import Undo


def test_settings_that_are_kept_elsewhere_are_changed_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(services, "snapshot", lambda: {"model": None, "runs": {}})
    monkeypatch.setattr(services, "return_to", lambda before: None)
    file, link = tmp_path / "repository" / "config.env", tmp_path / "config.env"
    file.parent.mkdir()
    file.write_text("old\n")
    link.symlink_to(file)
    undo = Undo(tmp_path / "state" / "undo")
    undo.begin()
    plan._write(undo, link, "new\n", 0o644)
    assert link.is_symlink() and file.read_text() == "new\n"
    undo.put_back(print)
    assert link.is_symlink() and file.read_text() == "old\n"
