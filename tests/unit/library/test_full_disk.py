"""Pulls onto a small file system, a real one on a loop device: too small before, and full meanwhile."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmsvc.config import Config
from llmsvc.library import installing, space, store
from tests.hub import Hub, Repository
from tests.unit.library.ggufs import gguf

MIB = 1 << 20
CONTENTS = gguf(tensors=[("a", (64 * MIB // 4,), 0)])
"""A model of 64 MiB."""
FILE = "Big.F32.gguf"
WHAT = f"owner/big-GGUF/{FILE}"


@pytest.fixture
def disk(host: Path) -> Iterator[Path]:
    """A file system of 2.3 GiB that takes no space itself."""
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    image, place = host / "disk.img", host / "disk"
    place.mkdir()
    with image.open("wb") as stream:
        stream.truncate(2300 * MIB)
    # lazy: nothing is written for the inodes and the journal
    lazy = "lazy_itable_init=1,lazy_journal_init=1"
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-E", lazy, image], check=True)
    mounted = subprocess.run(["mount", "-o", "loop", image, place], capture_output=True, text=True)
    if mounted.returncode:
        pytest.skip(f"no loop devices here: {mounted.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)


@pytest.fixture
def small(disk: Path, conf: Config, hub: Hub) -> Config:
    """The library on that disk, and a hub with a model for it."""
    hub.repositories["owner/big-GGUF"] = Repository({FILE: CONTENTS})
    return dataclasses.replace(conf, llama_models_dir=disk / "models")


def fill(disk: Path, left: int) -> None:
    """Takes what is free on the disk but for `left` bytes."""
    status = os.statvfs(disk)
    taken = status.f_bavail * status.f_frsize - left
    if taken > 0:
        with (disk / "filler").open("ab") as stream:
            os.posix_fallocate(stream.fileno(), stream.tell(), taken)


def what_is_there(config: Config) -> list[str]:
    return [path.name for path in config.llama_models_dir.rglob("*") if not path.name.startswith(".")]


def test_a_model_that_has_no_room_is_refused_before_a_byte_of_it_comes(
    small: Config, disk: Path, hub: Hub
) -> None:
    fill(disk, space.LEAST + 60 * MIB)
    with pytest.raises(space.FullError, match=r"67 MB needed beside a reserve of 2\.1 GB") as caught:
        installing.add(WHAT, config=small)
    assert "LLAMA_MODELS_DIR" in str(caught.value.hint)
    assert hub.got() == []
    assert what_is_there(small) == []


def test_one_with_just_enough_room_is_installed(small: Config, disk: Path) -> None:
    fill(disk, space.LEAST + 66 * MIB)
    assert installing.add(WHAT, config=small).file.stat().st_size == len(CONTENTS)


def test_a_disk_that_fills_up_meanwhile_ends_it_and_nothing_is_left(
    small: Config, disk: Path, hub: Hub
) -> None:
    def before(file: str, at: int) -> None:
        if at == 32 * MIB:
            fill(disk, space.LEAST - 10 * MIB)

    hub.before = before
    with pytest.raises(space.FullError, match=r"filled up meanwhile: .* left of a reserve of"):
        installing.add(WHAT, config=small)
    assert what_is_there(small) == []
    assert store.names() == []
    hub.before = lambda file, at: None
    (disk / "filler").unlink()
    assert installing.add(WHAT, config=small).file.exists(), "the next pull is clean"


@pytest.mark.parametrize("what", ["pull", "copy"])
def test_a_disk_that_is_full_to_the_last_byte_is_one_clear_error_too(
    small: Config, disk: Path, hub: Hub, host: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    """Somebody was quicker than our look at the reserve."""
    monkeypatch.setattr(space, "check", lambda directory: None)
    monkeypatch.setattr(space, "require", lambda directory, needed: fill(disk, 30 * MIB))
    local = host / "local.gguf"
    local.write_bytes(CONTENTS)
    source = WHAT if what == "pull" else str(local)
    with pytest.raises(space.FullError, match="filled up meanwhile: nothing left"):
        installing.add(source, config=small)
    assert what_is_there(small) == []
    assert store.names() == []


def test_going_on_needs_room_for_the_rest_only(small: Config, disk: Path, hub: Hub) -> None:
    def before(file: str, at: int) -> None:
        if at == 48 * MIB:
            raise ConnectionError

    hub.before = before
    with pytest.raises(Exception, match="broke off"):
        installing.add(WHAT, config=small)
    hub.before = lambda file, at: None
    fill(disk, space.LEAST + 20 * MIB)
    assert installing.add(WHAT, config=small).file.stat().st_size == len(CONTENTS)
