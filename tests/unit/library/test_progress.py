from __future__ import annotations

import threading
from pathlib import Path

import pytest

from llmsvc.library import progress


@pytest.mark.parametrize(
    ("arrived", "seconds", "text"),
    [
        (0, 5.0, "0 B of 98 MB (0 %)"),
        (49_000_000, 0.5, "49 MB of 98 MB (50 %)"),
        (49_000_000, 4.9, "49 MB of 98 MB (50 %), 10 MB/s, 4 s left"),
        (99_000_000, 9.9, "99 MB of 98 MB (100 %), 10 MB/s, 0 s left"),
    ],
)
def test_the_state_of_a_download_for_people(arrived: int, seconds: float, text: str) -> None:
    assert progress.state(arrived, 98_000_000, seconds) == text


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
    measure = progress.bytes_in

    def counted(directory: Path) -> int:
        seen.set()
        return measure(directory)

    monkeypatch.setattr(progress, "bytes_in", counted)
    with progress.watch(tmp_path, "fetching m.gguf", 1_000_000):
        assert seen.wait(10)
    out, err = capsys.readouterr()
    assert out == ""
    first, second, *_ = err.splitlines()
    assert first == "fetching m.gguf: 1 MB"
    assert second.startswith("fetching m.gguf: ") and " of 1 MB (5" in second
    assert "\x1b" not in err
