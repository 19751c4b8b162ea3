"""Files are written atomically, once, and never over what the admin made of them."""

from pathlib import Path

import pytest

from installer import services
from installer.actions import Link, WriteFile
from installer.manifest import Manifest
from installer.undo import Undo
from llmsvc.errors import Error


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return Manifest(tmp_path / "manifest.json")


@pytest.fixture
def undo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Undo:
    """A journal that has begun."""
    monkeypatch.setattr(services, "snapshot", lambda: {"model": None, "runs": {}})
    monkeypatch.setattr(services, "return_to", lambda before: None)
    undo = Undo(tmp_path / "state" / "undo")
    undo.begin()
    return undo


def write(path: Path, text: str, manifest: Manifest) -> WriteFile:
    return WriteFile(path, text, manifest, mode=0o644)


def test_a_missing_file_is_due_and_written_with_its_mode(
    tmp_path: Path, manifest: Manifest, undo: Undo
) -> None:
    action = write(tmp_path / "new" / "a.service", "one\n", manifest)
    assert action.due() and action.changes
    assert action.details() == f"--- /dev/null\n+++ {action.path}\n@@ -0,0 +1 @@\n+one\n"
    action.apply(undo)
    assert action.path.read_text() == "one\n"
    assert action.path.stat().st_mode & 0o7777 == 0o644
    assert not action.due() and not action.changes
    assert not write(action.path, "one\n", Manifest(manifest.file)).due()
    undo.put_back(print)
    assert not action.path.parent.exists()


def test_our_own_older_text_is_replaced_and_put_back(tmp_path: Path, manifest: Manifest, undo: Undo) -> None:
    write(tmp_path / "a", "one\n", manifest).apply(undo)
    undo.commit()
    (tmp_path / "a").chmod(0o640)
    undo.begin()
    newer = write(tmp_path / "a", "two\n", manifest)
    assert newer.due() and not newer.kept
    assert "-one\n+two\n" in newer.details()
    newer.apply(undo)
    assert (tmp_path / "a").read_text() == "two\n"
    undo.put_back(print)
    assert (tmp_path / "a").read_text() == "one\n"
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o640


def test_an_edited_file_stays_and_the_new_text_lies_beside_it(
    tmp_path: Path, manifest: Manifest, undo: Undo
) -> None:
    write(tmp_path / "a", "one\n", manifest).apply(undo)
    (tmp_path / "a").write_text("mine\n")
    newer = write(tmp_path / "a", "two\n", manifest)
    assert newer.kept and newer.due() and not newer.changes
    newer.apply(undo)
    assert (tmp_path / "a").read_text() == "mine\n"
    assert (tmp_path / "a.llmsvc-new").read_text() == "two\n"
    assert not newer.due()


def test_what_lies_beside_goes_once_the_admin_took_the_new_text(
    tmp_path: Path, manifest: Manifest, undo: Undo
) -> None:
    (tmp_path / "a").write_text("mine\n")
    action = write(tmp_path / "a", "two\n", manifest)
    action.apply(undo)
    (tmp_path / "a").write_text("two\n")
    assert action.due()
    action.apply(undo)
    assert not action.beside.exists() and not action.due()


def test_a_file_that_was_there_before_us_stays(tmp_path: Path, manifest: Manifest, undo: Undo) -> None:
    (tmp_path / "a").write_text("somebody else's\n")
    write(tmp_path / "a", "ours\n", manifest).apply(undo)
    assert (tmp_path / "a").read_text() == "somebody else's\n"


def test_a_link_is_switched_and_switched_back(tmp_path: Path, manifest: Manifest, undo: Undo) -> None:
    (tmp_path / "link").symlink_to("old")
    action = Link(tmp_path / "link", Path("new"), manifest)
    assert action.due()
    action.apply(undo)
    assert (tmp_path / "link").readlink() == Path("new") and not action.due()
    assert Manifest(manifest.file).links == [str(tmp_path / "link")]
    undo.put_back(print)
    assert (tmp_path / "link").readlink() == Path("old")


def test_a_link_of_ours_that_the_manifest_has_forgotten_is_noted(
    tmp_path: Path, manifest: Manifest, undo: Undo
) -> None:
    link = Link(tmp_path / "venv", tmp_path, manifest)
    link.path.symlink_to(tmp_path)
    assert link.due()
    link.apply(undo)
    assert not link.due() and Manifest(manifest.file).links == [str(link.path)]


def test_a_file_where_our_link_should_be_is_not_lost(tmp_path: Path, manifest: Manifest, undo: Undo) -> None:
    (tmp_path / "link").write_text("precious")
    with pytest.raises(Error, match="not a link of ours"):
        Link(tmp_path / "link", Path("new"), manifest).apply(undo)
    assert (tmp_path / "link").read_text() == "precious"


def test_a_damaged_manifest_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(Error, match="is damaged"):
        Manifest(tmp_path / "manifest.json")


def test_a_file_that_has_our_text_already_is_noted_and_not_written_anew(
    tmp_path: Path, manifest: Manifest, undo: Undo
) -> None:
    action = write(tmp_path / "a.service", "one\n", manifest)
    action.path.write_text("one\n")
    action.path.chmod(0o600)
    before = action.path.stat()
    action.apply(undo)
    after = action.path.stat()
    # systemd takes one with another time, or another inode, for changed
    assert (after.st_mtime_ns, after.st_ino) == (before.st_mtime_ns, before.st_ino)
    assert after.st_mode & 0o777 == 0o644
    assert str(action.path) in manifest.written and not action.due()
