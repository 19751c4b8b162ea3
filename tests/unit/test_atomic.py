"""A file is there whole or not at all, and an error names it."""

import os
from pathlib import Path

import pytest

from llmsvc import atomic


def test_mode_and_text_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o077)
    try:
        atomic.write(tmp_path / "a", "text\n", 0o644)
    finally:
        os.umask(before)
    assert (tmp_path / "a").read_text() == "text\n"
    assert (tmp_path / "a").stat().st_mode & 0o7777 == 0o644


def test_a_failed_write_leaves_the_old_text_and_no_litter(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with pytest.raises(UnicodeEncodeError):
        atomic.write(tmp_path / "a", "\ud800", 0o600)
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_an_error_names_the_file(tmp_path: Path) -> None:
    (tmp_path / "directory").mkdir()
    for file in (tmp_path / "missing" / "a", tmp_path / "directory"):
        with pytest.raises(OSError) as caught:
            atomic.write(file, "x", 0o600)
        assert caught.value.filename == str(file)
    assert [path.name for path in tmp_path.iterdir()] == ["directory"]
