"""Shows how far a load is, and ends one that no longer moves.

The unit has no time-out of its own, for a big model on a slow disk may take an hour.
"""

from __future__ import annotations

import os
import resource
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from llmsvc.systemd import notify

STALL_SECONDS = 300.0
_CPU_SECONDS = 0.02
"""Less CPU time than this between two looks is the clock's grain and our own, not work."""


class Progress:
    """Turns llama.cpp's progress into STATUS lines."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._percent = -1
        self._told = 0.0
        self.moves = 0
        notify.status(f"Loading {what}")

    def __call__(self, fraction: float) -> None:
        self.moves += 1
        percent, now = int(fraction * 100), time.monotonic()
        if percent != self._percent and now - self._told > 0.1:
            self._percent, self._told = percent, now
            notify.status(f"Loading {self._what}: {percent} %")


class Watch:
    """Calls `stalled` if for `seconds` there was no progress, nothing read from disk and no CPU time used."""

    def __init__(
        self, progress: Progress, stalled: Callable[[], None], seconds: float = STALL_SECONDS
    ) -> None:
        self._progress = progress
        self._stalled = stalled
        self._seconds = seconds
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._run, name="load-watch", daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._thread.join()

    def _run(self) -> None:
        moved, before = time.monotonic(), self._look()
        while not self._end.wait(min(self._seconds / 4, 5)):
            now = self._look()
            if now[:2] != before[:2] or now[2] - before[2] > _CPU_SECONDS:
                moved, before = time.monotonic(), now
            elif time.monotonic() - moved >= self._seconds:
                self._stalled()
                return

    def _look(self) -> tuple[int, int, float]:
        return self._progress.moves, _bytes_read(), time.process_time() - time.thread_time()


def _bytes_read() -> int:
    """Bytes this process has had read from disks, and its page faults that needed one."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    try:
        lines = Path("/proc/self/io").read_text().splitlines()
    except OSError:
        return faults
    return faults + next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def exit_now(status: int) -> None:
    """Ends the process from any thread, also while another one is inside C."""
    os._exit(status)
