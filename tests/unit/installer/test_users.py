"""Which of the system's users are ours, where the manifest that told it was lost."""

from __future__ import annotations

import grp
import pwd
from pathlib import Path
from types import SimpleNamespace

import pytest

from installer import users
from installer.manifest import Manifest


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Users of this machine: name to description."""
    there: dict[str, str] = {}
    monkeypatch.setattr(pwd, "getpwnam", lambda name: SimpleNamespace(pw_gecos=there[name], pw_gid=name))
    monkeypatch.setattr(grp, "getgrgid", lambda gid: SimpleNamespace(gr_name=gid))
    return there


def test_what_the_manifest_has_forgotten_is_ours_by_its_description(
    tmp_path: Path, accounts: dict[str, str]
) -> None:
    manifest = Manifest(tmp_path / "manifest.json")
    assert users.forgotten(manifest) == {}
    accounts |= {"llmsvc-proxy": "an admin's", "llmsvc-backend": "llmsvc model server"}
    assert users.forgotten(manifest) == {"users": ["llmsvc-backend"], "groups": ["llmsvc-backend"]}
    users.remember(manifest)
    assert users.forgotten(manifest) == {}
    assert Manifest(manifest.file).made == {"users": ["llmsvc-backend"], "groups": ["llmsvc-backend"]}
