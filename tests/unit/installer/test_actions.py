"""Files are written atomically, once, and never over what the admin made of them."""

from pathlib import Path

import pytest

from installer.actions import WriteFile
from installer.manifest import Manifest
from llmsvc.errors import Error


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    return Manifest(tmp_path / "manifest.json")


def write(path: Path, text: str, manifest: Manifest, changed: list[str] | None = None) -> WriteFile:
    return WriteFile(path, text, manifest, mode=0o644, written=([] if changed is None else changed).append)


def test_a_missing_file_is_due_and_written_with_its_mode(tmp_path: Path, manifest: Manifest) -> None:
    changed: list[str] = []
    action = write(tmp_path / "a.service", "one\n", manifest, changed)
    assert action.due()
    action.apply()
    assert (tmp_path / "a.service").read_text() == "one\n"
    assert (tmp_path / "a.service").stat().st_mode & 0o7777 == 0o644
    assert changed == ["a.service"]
    assert not action.due()
    assert not write(tmp_path / "a.service", "one\n", Manifest(manifest.file)).due()


def test_our_own_older_text_is_replaced(tmp_path: Path, manifest: Manifest) -> None:
    write(tmp_path / "a", "one\n", manifest).apply()
    newer = write(tmp_path / "a", "two\n", manifest)
    assert newer.due() and not newer.kept
    newer.apply()
    assert (tmp_path / "a").read_text() == "two\n"


def test_an_edited_file_stays_and_the_new_text_lies_beside_it(tmp_path: Path, manifest: Manifest) -> None:
    write(tmp_path / "a", "one\n", manifest).apply()
    (tmp_path / "a").write_text("mine\n")
    changed: list[str] = []
    newer = write(tmp_path / "a", "two\n", manifest, changed)
    assert newer.kept and newer.due()
    newer.apply()
    assert (tmp_path / "a").read_text() == "mine\n"
    assert (tmp_path / "a.llmsvc-new").read_text() == "two\n"
    assert changed == [] and not newer.due()


def test_a_file_that_was_there_before_us_stays(tmp_path: Path, manifest: Manifest) -> None:
    (tmp_path / "a").write_text("somebody else's\n")
    action = write(tmp_path / "a", "ours\n", manifest)
    action.apply()
    assert (tmp_path / "a").read_text() == "somebody else's\n"


def test_a_damaged_manifest_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(Error, match="is damaged"):
        Manifest(tmp_path / "manifest.json")
