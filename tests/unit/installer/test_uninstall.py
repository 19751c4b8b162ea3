"""What an uninstallation takes away beside the files of its manifest."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from installer import clusters, putback, services, uninstall
from installer.manifest import Manifest
from llmsvc import config, paths
from llmsvc.errors import Error
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


@pytest.mark.parametrize("purge", [False, True])
def test_without_a_manifest_units_do_not_lose_what_they_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, purge: bool
) -> None:
    monkeypatch.setattr(paths, "MANIFEST", tmp_path / "manifest.json")
    monkeypatch.setattr(paths, "UNITS", tmp_path)
    (tmp_path / manager.SOCKET).write_text("[Socket]\n")
    with pytest.raises(Error, match="is missing, which tells what is llmsvc's") as caught:
        uninstall.plan(purge=purge)
    assert "run 'llmsvc install' first" in (caught.value.hint or "")


def test_a_purge_empties_a_linked_directory_and_a_mounted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, link = tmp_path / "real", tmp_path / "link"
    (real / "mounted [x]" / "deep").mkdir(parents=True)
    (real / "file").touch()
    link.symlink_to(real)
    mounts = [str(real / "mounted [x]")]
    monkeypatch.setattr(uninstall, "_mounts_below", lambda places: mounts)
    rmdir = os.rmdir

    def busy(path: str, **options: int) -> None:
        if Path(path).name == "mounted [x]":
            raise OSError(errno.EBUSY, "Device or resource busy")
        rmdir(path, **options)

    monkeypatch.setattr(os, "rmdir", busy)
    uninstall._remove_tree(link).do()
    assert [path.name for path in tmp_path.rglob("*")] == ["real", "mounted [x]"]
    # what is busy for another reason is told
    mounts.clear()
    with pytest.raises(OSError, match="busy"):
        uninstall._remove_tree(real).do()
    monkeypatch.undo()
    uninstall._remove_tree(real).do()
    assert not real.exists()


def test_mounts_are_found() -> None:
    assert "/proc" in uninstall._mounts_below(["/"])
    assert "/proc" in uninstall._mounts_below(["/proc"])
    assert "/" not in uninstall._mounts_below(["/proc"])


def test_a_purge_does_not_wait_for_a_postgresql_that_was_removed(monkeypatch: pytest.MonkeyPatch) -> None:
    left: list[str] = []
    monkeypatch.setattr(clusters, "gone", lambda: True)
    assert [*uninstall._database(Manifest(Path("x")), config.parse({}, Path("x")), left)] == []
    assert left == ["the database llmsvc went with PostgreSQL, of which this machine has none any more"]


def test_users_that_we_did_not_make_stay_and_are_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(putback, "known", lambda look_up, name: name != paths.ADMIN_GROUP)
    manifest, left = Manifest(tmp_path / "x"), list[str]()
    manifest.made = {"users": [paths.BACKEND_USER], "groups": [paths.PROXY_USER, paths.BACKEND_USER]}
    titles = [step.title for step in uninstall._users(manifest, left)]
    assert titles[0] == f"remove the user {paths.BACKEND_USER}" and len(titles) == 3
    assert left == [f"the user {paths.PROXY_USER}, of which nothing tells that llmsvc made it"]


def test_drop_ins_of_another_llama_server_are_not_ours(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "UNITS", tmp_path)
    for name in ("llama-server.service.d", "llama-server@x.service.d", "llama-server@.service.d"):
        (tmp_path / name).mkdir()
    titles = [step.title for step in uninstall._files(Manifest(tmp_path / "manifest.json"), True)]
    assert [title for title in titles if ".service.d" in title] == [
        f"remove {tmp_path}/llama-server@.service.d",
        f"remove {tmp_path}/llama-server@x.service.d",
    ]
