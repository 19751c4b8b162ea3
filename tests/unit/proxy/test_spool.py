"""The ring file: what was written is found again, also after a kill in the middle of a write."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsvc.errors import ConflictError
from llmsvc.proxy.spool import DamagedError, Spool

ID = bytes(range(16))


def payloads(spool: Spool) -> list[bytes]:
    return [record.payload for record in spool.records()]


@settings(max_examples=60, deadline=None)
@given(steps=st.lists(st.tuples(st.integers(0, 300), st.integers(0, 4)), min_size=1, max_size=60))
def test_ring_keeps_exactly_what_is_still_needed(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]
) -> None:
    file = tmp_path_factory.mktemp("spool") / "ring"
    spool = Spool(file, size=2048)
    kept: list[bytes] = []
    for number, (length, drop) in enumerate(steps):
        data = bytes([number % 256]) * length
        if spool.free >= length + 64:
            spool.append(1, ID, data)
            kept.append(data)
        for _ in range(min(drop, len(kept))):
            spool.advance(next(spool.records()).end)
            kept.pop(0)
        assert payloads(spool) == kept
    spool.close()
    again = Spool(file, size=2048)
    assert payloads(again) == kept
    assert again.tail == spool.tail
    again.close()


def test_half_written_record_is_as_if_it_never_was(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "ring", size=4096)
    spool.append(1, ID, b"whole")
    end = spool.tail
    spool.append(1, ID, b"half of this is lost")
    spool.close()
    fd = os.open(tmp_path / "ring", os.O_RDWR)
    os.pwrite(fd, b"\0" * 8, 24 + spool.tail - 8)
    os.close(fd)
    again = Spool(tmp_path / "ring")
    assert payloads(again) == [b"whole"]
    assert again.tail == end
    again.append(1, ID, b"next")
    assert payloads(again) == [b"whole", b"next"]
    again.close()


def test_space_is_allocated_beforehand(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "ring", size=1 << 20)
    assert (tmp_path / "ring").stat().st_blocks * 512 >= 1 << 20
    spool.close()


def test_second_proxy_is_refused(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "ring", size=4096)
    with pytest.raises(ConflictError, match="in use"):
        Spool(tmp_path / "ring")
    spool.close()
    Spool(tmp_path / "ring").close()


def test_damaged_file_is_noticed(tmp_path: Path) -> None:
    (tmp_path / "ring").write_bytes(b"x" * 5000)
    with pytest.raises(DamagedError):
        Spool(tmp_path / "ring")
