from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path

import pytest

from llmsvc.library import progress


@pytest.mark.parametrize(
    ("arrived", "speed", "text"),
    [
        (0, None, "0 B of 98 MB (0 %)"),
        (49_000_000, 0.0, "49 MB of 98 MB (50 %), nothing arrives"),
        (49_000_000, 10e6, "49 MB of 98 MB (50 %), 10 MB/s, 4 s left"),
        (49_000_000, 400e3, "49 MB of 98 MB (50 %), 400 kB/s, 2 min left"),
        (49_000_000, 5e3, "49 MB of 98 MB (50 %), 5 kB/s, 2 h 43 min left"),
        (99_000_000, 10e6, "99 MB of 98 MB (100 %), 10 MB/s, 0 s left"),
    ],
)
def test_the_state_of_a_download_for_people(arrived: int, speed: float | None, text: str) -> None:
    assert progress.state(arrived, 98_000_000, speed) == text


def test_the_speed_is_that_of_the_last_seconds_and_leaves_out_what_was_there_before() -> None:
    speed = progress.Speed()
    assert speed(50_000, 100.0) is None, "what an earlier try fetched is not fast"
    assert speed(50_500, 100.5) is None
    assert speed(52_000, 102.0) == 1000
    for second in range(103, 140):
        speed(52_000, float(second))
    assert speed(52_000, 140.0) == 0


def test_a_bar_for_a_terminal() -> None:
    assert progress.bar(0, 100) == f"[{'-' * 24}]"
    assert progress.bar(50, 100) == f"[{'#' * 12}{'-' * 12}]"
    assert progress.bar(120, 100) == f"[{'#' * 24}]"


def test_on_a_terminal_one_line_is_painted_anew(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    seen = threading.Event()

    def arrived() -> int:
        seen.set()
        return 500_000

    with progress.watch("fetching m.gguf", 1_000_000, arrived):
        assert seen.wait(10)
    painted = capsys.readouterr().err
    assert "\n" not in painted
    assert f"\r\x1b[Kfetching m.gguf: [{'#' * 12}{'-' * 12}] 500 kB of 1 MB (50 %)" in painted
    assert painted.endswith("\r\x1b[K"), "the line is taken away at the end"


def test_sizes_for_people() -> None:
    sizes = [progress.size(n) for n in (0, 999, 1000, 98_362_432, 4_372_812_000, 5 * 10**12)]
    assert sizes == ["0 B", "999 B", "1 kB", "98 MB", "4.4 GB", "5.0 TB"]


def test_without_a_terminal_there_are_plain_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "_PLAIN_SECONDS", 0.01)
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/part").write_bytes(bytes(500_000))
    seen = threading.Event()

    def counted() -> int:
        seen.set()
        return progress.bytes_in(tmp_path)

    with progress.watch("fetching m.gguf", 1_000_000, counted):
        assert seen.wait(10)
    out, err = capsys.readouterr()
    assert out == ""
    first, second, *_ = err.splitlines()
    assert first == "fetching m.gguf: 1 MB"
    assert second.startswith("fetching m.gguf: ") and " of 1 MB (5" in second
    assert "\x1b" not in err


def test_a_directory_that_vanishes_while_it_is_looked_at_counts_as_none(tmp_path, monkeypatch):
    (tmp_path / "stays").write_bytes(b"x" * 4096)
    (tmp_path / "goes").mkdir()
    scandir = os.scandir

    def late(path):
        if str(path).endswith("goes"):
            shutil.rmtree(path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", late)
    assert progress.bytes_in(tmp_path) >= 4096
