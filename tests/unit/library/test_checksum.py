"""The recorded sum of a model file: compared, and the file read only where it may have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmsvc.errors import ModelError
from llmsvc.library import installing, records, store


@pytest.fixture
def file(conf, model_file) -> Path:
    """A file of the library, with its record."""
    return installing.add(str(model_file), name="m", config=conf, options=installing.Options(how="copy")).file


@pytest.fixture
def reads(monkeypatch):
    """The files that were read for their sum."""
    read: list[Path] = []
    real = records.sha256

    def sha256(path, progress=None):
        read.append(path)
        return real(path, progress)

    monkeypatch.setattr(records, "sha256", sha256)
    return read


def damage(file: Path) -> None:
    with file.open("r+b") as stream:
        stream.seek(-1, os.SEEK_END)
        stream.write(b"\1")


def test_a_file_that_was_just_added_is_not_read_again(file, reads):
    records.check(file)
    assert reads == []


def test_a_changed_file_is_refused(file, reads):
    damage(file)
    with pytest.raises(ModelError, match=r"is damaged, or another file: its sha256 is [0-9a-f]{64}, and"):
        records.check(file)
    assert reads == [file]


def test_a_file_that_only_looks_changed_is_read_once(file, reads):
    told = []
    os.utime(file, (1, 1))
    records.check(file, told.append)
    records.check(file)
    assert reads == [file]
    assert told[-1] == file.stat().st_size
    assert store.model("m").problem is None


def test_another_file_of_the_same_size_and_time_is_read(file, reads):
    before = file.stat()
    copy = file.with_name("copy")
    copy.write_bytes(file.read_bytes())
    damage(copy)
    os.utime(copy, ns=(before.st_atime_ns, before.st_mtime_ns))
    copy.rename(file)
    with pytest.raises(ModelError):
        records.check(file)


def test_another_sum_in_the_record_is_noticed_though_the_file_is_the_same(file, reads):
    side = file.with_name("m.gguf.sha256")
    lines = side.read_text().splitlines()
    side.write_text("\n".join([*lines[:2], "0" * 64 + lines[2][64:], ""]))
    with pytest.raises(ModelError, match=f"and {'0' * 64} is recorded"):
        records.check(file)


def test_a_record_of_sha256sum_is_enough_and_the_origin_is_kept(file, reads):
    side = file.with_name("m.gguf.sha256")
    origin, _, digest = side.read_text().splitlines()
    side.write_text(digest + "\n")
    records.check(file)
    records.check(file)
    assert reads == [file]
    side.write_text(f"{origin}\n{digest}\n")
    records.check(file)
    assert records.read(file).origin == origin.removeprefix("# source: ")


def test_a_file_without_a_record_is_fine(file, reads):
    file.with_name("m.gguf.sha256").unlink()
    records.check(file)
    assert reads == []


def test_who_cannot_write_the_record_checks_all_the_same(file, reads, monkeypatch):
    def refuse(*arguments, **options):
        raise PermissionError(13, "Permission denied", "x")

    os.utime(file, (1, 1))
    monkeypatch.setattr(records.atomic, "write", refuse)
    records.check(file)
    records.check(file)
    assert reads == [file, file]


def test_a_file_that_is_gone_is_an_error_of_the_model(file):
    file.unlink()
    with pytest.raises(ModelError, match="cannot be read"):
        records.check(file)
