"""Which environment the services run from."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from installer import release
from llmsvc import paths


@pytest.mark.parametrize("started", ["opt/releases/1", "real/releases/1", "opt/venv"])
def test_a_release_is_none_to_be_copied_where_opt_is_a_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, started: str
) -> None:
    (tmp_path / "real/releases/1").mkdir(parents=True)
    (tmp_path / "opt").symlink_to("real")
    (tmp_path / "real/venv").symlink_to("releases/1")
    monkeypatch.setattr(paths, "PREFIX", tmp_path / "opt")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / started))
    assert release.wanted() == tmp_path / "opt/releases/1"
