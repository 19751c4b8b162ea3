"""Shows what goes on: one line, painted anew on a terminal, else a line now and then.

Of a download it tells the bytes that have arrived on disk: the same for pip and for the hub.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

_LOOK_SECONDS = 0.25
_PLAIN_SECONDS = 10.0


class ProgressLine:
    """Writes to stderr; with `quiet`, nothing. Use it as a context, which clears the line at its end."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self._terminal = sys.stderr.isatty()
        self._shown = ("", "")
        self._at = 0.0

    def __enter__(self) -> ProgressLine:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.clear()

    def show(self, step: str, detail: str = "") -> None:
        """Says that `step` goes on; `detail` is what changes often, as `37 %`."""
        if self._quiet or (step, detail) == self._shown:
            return
        line = f"{step}: {detail}" if detail else step
        if self._terminal:
            print(f"\r\x1b[K{line[:120]}", end="", file=sys.stderr, flush=True)
        elif step != self._shown[0] or time.monotonic() - self._at >= _PLAIN_SECONDS:
            print(line, file=sys.stderr, flush=True)
            self._at = time.monotonic()
        self._shown = (step, detail)

    def say(self, line: str) -> None:
        """A line that stays."""
        if not self._quiet:
            self.clear()
            print(line, file=sys.stderr, flush=True)

    def clear(self) -> None:
        """Takes the line away."""
        if self._terminal and self._shown[0]:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        self._shown = ("", "")


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
    started = time.monotonic()
    with ProgressLine() as line:
        line.show(what, size(total))
        while not done.wait(min(_LOOK_SECONDS, _PLAIN_SECONDS)):
            line.show(what, state(bytes_in(directory), total, time.monotonic() - started))


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
