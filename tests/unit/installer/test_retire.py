"""What a release or a mode does without goes, its units stopped before; what the admin made of it stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from installer import retire, services
from installer.actions import Action, WriteFile
from installer.manifest import Manifest
from installer.undo import Undo
from llmsvc import paths
from llmsvc.process import ProcessError


@pytest.fixture
def undo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Undo:
    monkeypatch.setattr(services, "snapshot", lambda: {"model": None, "runs": {}})
    monkeypatch.setattr(services, "return_to", lambda before: None)
    undo = Undo(tmp_path / "undo")
    undo.begin()
    return undo


@pytest.fixture
def host(tmp_path: Path, undo: Undo, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Manifest, list[str]]:
    """The directory of units with two of ours, the manifest, and what was stopped and disabled."""
    units = tmp_path / "units"
    monkeypatch.setattr(paths, "UNITS", units)
    manifest = Manifest(tmp_path / "manifest.json")
    for name in ("a.service", "a.socket", "stays.service"):
        text = "[Install]\nWantedBy=multi-user.target\n"
        WriteFile(units / name, text, manifest, mode=0o644).apply(undo)
    undo.commit()
    undo.begin()
    did: list[str] = []
    active = services.Unit(active=True, enabled=True, run="x")
    monkeypatch.setattr(services, "units", lambda names: dict.fromkeys(names, active))
    monkeypatch.setattr(services, "stop", lambda names: did.append(f"stop {' '.join(names)}"))
    monkeypatch.setattr(services, "run", lambda argv: did.append(" ".join(argv[1:])))
    return units, manifest, did


def due(manifest: Manifest, units: Path) -> list[Action]:
    return [a for a in retire.actions(manifest, {str(units / "stays.service")}) if a.due()]


def test_units_are_stopped_sockets_first_and_removed(
    host: tuple[Path, Manifest, list[str]], undo: Undo
) -> None:
    units, manifest, did = host
    for action in due(manifest, units):
        action.apply(undo)
    assert did == ["stop a.socket a.service", "disable -q a.socket a.service"]
    assert [path.name for path in units.iterdir()] == ["stays.service"]
    assert list(manifest.written) == [str(units / "stays.service")]
    undo.put_back(print)
    assert sorted(path.name for path in units.iterdir()) == ["a.service", "a.socket", "stays.service"]


def test_one_that_cannot_be_disabled_is_told(
    host: tuple[Path, Manifest, list[str]], undo: Undo, monkeypatch: pytest.MonkeyPatch
) -> None:
    units, manifest, _ = host

    def fails(argv: list[str]) -> None:
        raise ProcessError(argv, 1, "no")

    monkeypatch.setattr(services, "run", fails)
    # else its links would stay when its file goes
    with pytest.raises(ProcessError, match="disable"):
        due(manifest, units)[0].apply(undo)


def test_an_edited_one_is_kept_under_another_name(host: tuple[Path, Manifest, list[str]], undo: Undo) -> None:
    units, manifest, _ = host
    (units / "a.service").write_text("mine\n")
    for action in due(manifest, units):
        action.apply(undo)
    assert (units / "a.service.llmsvc-saved").read_text() == "mine\n"
    assert not (units / "a.service").exists()


def test_nothing_to_retire_is_nothing_to_do(host: tuple[Path, Manifest, list[str]]) -> None:
    units, manifest, _ = host
    for name in ("a.service", "a.socket"):
        manifest.forget(units / name)
    assert not [a for a in due(manifest, units) if a.kind == "file"]


@pytest.mark.parametrize(
    ("proxy", "gone"),
    [
        (True, "llama-server.socket"),
        (False, "auth-proxy.socket llmsvc-prune.timer auth-proxy.service"),
    ],
)
def test_a_package_keeps_the_units_of_the_other_mode_but_does_not_run_them(
    host: tuple[Path, Manifest, list[str]], undo: Undo, proxy: bool, gone: str
) -> None:
    units, _, did = host
    for name in gone.split():
        (units / name).write_text("[Install]\nWantedBy=multi-user.target\n")
    action = retire.other_mode(proxy=proxy)
    assert action.due()
    action.apply(undo)
    assert did == [f"stop {gone}", f"disable -q {gone}"]
    assert set(gone.split()) <= {path.name for path in units.iterdir()}
