"""Shows how far a download is, from the bytes that have arrived on disk: the same for pip and for the hub."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_TERMINAL_SECONDS = 0.25
_PLAIN_SECONDS = 10.0


@contextlib.contextmanager
def watch(directory: Path, what: str, total: int) -> Iterator[None]:
    """While the block runs, tells on stderr how many of `total` bytes lie in `directory`.

    On a terminal one line that is painted anew, with speed and remaining time; else a line now and then.
    """
    done = threading.Event()
    thread = threading.Thread(target=_report, args=(directory, what, total, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _report(directory: Path, what: str, total: int, done: threading.Event) -> None:
    terminal = sys.stderr.isatty()
    started = time.monotonic()
    if not terminal:
        print(f"{what}: {size(total)}", file=sys.stderr, flush=True)
    while not done.wait(_TERMINAL_SECONDS if terminal else _PLAIN_SECONDS):
        line = f"{what}: {state(bytes_in(directory), total, time.monotonic() - started)}"
        print(
            f"\r\x1b[K{line[:120]}" if terminal else line,
            end="" if terminal else "\n",
            file=sys.stderr,
            flush=True,
        )
    if terminal:
        print("\r\x1b[K", end="", file=sys.stderr, flush=True)


def state(arrived: int, total: int, seconds: float) -> str:
    """`45 MB of 93 MB (48 %), 12 MB/s, 4 s left`."""
    share = min(100 * arrived // max(total, 1), 100)
    text = f"{size(arrived)} of {size(total)} ({share} %)"
    if arrived and seconds > 1:
        speed = arrived / seconds
        text += f", {size(int(speed))}/s, {max(0, int((total - arrived) / speed))} s left"
    return text


def size(count: int) -> str:
    """Bytes for people, in powers of 1000: `98 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit in ("B", "kB", "MB") else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def bytes_in(directory: Path) -> int:
    """Bytes on disk of all files below a directory; files that vanish meanwhile count as none."""
    total = 0
    for file in directory.rglob("*"):
        with contextlib.suppress(OSError):
            total += file.lstat().st_blocks * 512
    return total
