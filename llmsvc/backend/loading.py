"""Shows how far a load is, and ends one that no longer moves or is no longer wanted.

The unit has no time-out of its own, for a big model on a slow disk may take an hour.
"""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from llmsvc import atomic
from llmsvc.systemd import notify

STALL_SECONDS = 300.0
_CPU_SECONDS = 0.02
"""Less CPU time than this between two looks is the clock's grain and our own, not work."""


class Progress:
    """Turns llama.cpp's progress into STATUS lines, and into the file `loading` for who waits for the model.

    The file has one line, `37 Loading smollm2.gguf`; it is written anew, or only touched, as the load moves.
    What cannot be written is left out: it is only for show.
    """

    def __init__(self, what: str, file: Path) -> None:
        self._what = what
        self._file = file
        self._percent = -1
        self._told = 0.0
        self.moves = 0
        self.process: int | None = None
        """The process that loads, where it is not this one."""
        self._write(0, "Loading")
        notify.status(f"Loading {what}")

    def __call__(self, fraction: float) -> None:
        self.moves += 1
        percent, now = int(fraction * 100), time.monotonic()
        if percent != self._percent and now - self._told > 0.1:
            self._percent, self._told = percent, now
            self._write(percent, "Loading")
            notify.status(f"Loading {self._what}: {percent} %")

    def testing(self) -> None:
        """The file is read; the self-test begins."""
        self._write(100, "Testing")
        notify.status(f"Testing {self._what}")

    def touch(self) -> None:
        """The load moves, even if llama.cpp does not say so."""
        with contextlib.suppress(OSError):
            os.utime(self._file)

    def end(self) -> None:
        """Nothing loads any more."""
        with contextlib.suppress(OSError):
            self._file.unlink()

    def _write(self, percent: int, verb: str) -> None:
        with contextlib.suppress(OSError):
            atomic.write(self._file, f"{percent} {verb} {self._what}\n", 0o644, sync=False)


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
        self._progress.end()

    def _run(self) -> None:
        moved, before = time.monotonic(), self._look()
        while not self._end.wait(min(self._seconds / 4, 5)):
            now = self._look()
            if now[:2] != before[:2] or now[2] - before[2] > _CPU_SECONDS:
                moved, before = time.monotonic(), now
                self._progress.touch()
            elif time.monotonic() - moved >= self._seconds:
                self._stalled()
                return

    def _look(self) -> tuple[int, int, float]:
        loads = self._progress.process
        if loads is None:
            return self._progress.moves, _bytes_read("self"), time.process_time() - time.thread_time()
        return self._progress.moves, _bytes_read(str(loads)), _cpu_seconds(loads)


def _bytes_read(process: str) -> int:
    """Bytes a process has had read from disks, and its page faults that needed one."""
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt if process == "self" else 0
    try:
        lines = Path(f"/proc/{process}/io").read_text().splitlines()
    except OSError:
        return faults
    return faults + next(int(line.split()[1]) for line in lines if line.startswith("read_bytes:"))


def _cpu_seconds(process: int) -> float:
    """CPU time that a process has used; 0 where it is gone."""
    try:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def on_sigterm(stop: Callable[[], None]) -> None:
    """Has `stop` called at SIGTERM, from a thread where the main thread is inside C; `stop` ends the process.

    It holds until an event loop takes the signal over.
    """
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    once = threading.Lock()

    def handle(*_arguments: object) -> None:
        if once.acquire(blocking=False):
            stop()

    def wait() -> None:
        os.read(reader, 1)
        handle()

    threading.Thread(target=wait, name="load-sigterm", daemon=True).start()
    signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGTERM, handle)


def exit_now(status: int) -> None:
    """Ends the process from any thread, also while another one is inside C."""
    os._exit(status)
