"""Shows what goes on: one line, painted anew on a terminal, else a line now and then."""

from __future__ import annotations

import collections
import contextlib
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType

_LOOK_SECONDS = 0.25
_PLAIN_SECONDS = 10.0
_BAR = 24
_WINDOW_SECONDS = 10.0
"""The speed is that of so long."""


class ProgressLine:
    """Writes to stderr; with `quiet`, nothing. Use it as a context, which clears the line at its end."""

    def __init__(self, *, quiet: bool = False) -> None:
        self._quiet = quiet
        self.terminal = sys.stderr.isatty()
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
        if self.terminal:
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
        if self.terminal and self._shown[0]:
            print("\r\x1b[K", end="", file=sys.stderr, flush=True)
        self._shown = ("", "")


class Speed:
    """Bytes a second over the last moments, from what has arrived by when."""

    def __init__(self) -> None:
        self._seen: collections.deque[tuple[float, int]] = collections.deque()

    def __call__(self, arrived: int, now: float) -> float | None:
        """The speed with what has arrived by `now` (seconds of any clock); None while it cannot be told."""
        self._seen.append((now, arrived))
        while len(self._seen) > 2 and now - self._seen[1][0] >= _WINDOW_SECONDS:
            self._seen.popleft()
        at, first = self._seen[0]
        return (arrived - first) / (now - at) if now - at > 1 else None


@contextlib.contextmanager
def watch(what: str, total: int, arrived: Callable[[], int]) -> Iterator[None]:
    """While the block runs, tells on stderr how many of `total` bytes have arrived.

    On a terminal one line that is painted anew, with a bar, speed and time left; else a line now and then.
    """
    done = threading.Event()
    thread = threading.Thread(target=_report, args=(what, total, arrived, done), daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def _report(what: str, total: int, arrived: Callable[[], int], done: threading.Event) -> None:
    speed = Speed()
    with ProgressLine() as line:
        line.show(what, size(total))
        while not done.wait(min(_LOOK_SECONDS, _PLAIN_SECONDS)):
            count = arrived()
            told = state(count, total, speed(count, time.monotonic()))
            line.show(what, f"{bar(count, total)} {told}" if line.terminal else told)


def state(arrived: int, total: int, speed: float | None) -> str:
    """`45 MB of 93 MB (48 %), 12 MB/s, 4 s left`; the speed in bytes a second, None where it is not known."""
    text = f"{size(arrived)} of {size(total)} ({_percent(arrived, total)} %)"
    if speed is None:
        return text
    if speed < 1:
        return f"{text}, nothing arrives"
    return f"{text}, {size(int(speed))}/s, {_left(max(0.0, (total - arrived) / speed))} left"


def bar(arrived: int, total: int) -> str:
    """`[#####---]`, for a terminal."""
    filled = _BAR * _percent(arrived, total) // 100
    return f"[{'#' * filled}{'-' * (_BAR - filled)}]"


def _percent(arrived: int, total: int) -> int:
    return min(100 * arrived // max(total, 1), 100)


def _left(seconds: float) -> str:
    if seconds < 60:
        return f"{int(seconds)} s"
    minutes = int(seconds) // 60
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def size(count: int) -> str:
    """Bytes for people, in powers of 1000: `98 MB`."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit in ("B", "kB", "MB") else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def bytes_in(directory: Path) -> int:
    """Bytes on disk of all files below a directory; what vanishes meanwhile counts as none."""
    total = 0
    # unlike rglob(), it takes a directory that is gone for an empty one
    for place, _, files in os.walk(directory):
        for name in files:
            with contextlib.suppress(OSError):
                total += Path(place, name).lstat().st_blocks * 512
    return total
