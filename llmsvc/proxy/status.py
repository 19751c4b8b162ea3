"""What the proxy is doing, in a file that everybody on this machine may read: `llmsvc status` shows it.

It holds no user names and no prompts.
"""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import json
import logging
import time
from pathlib import Path

from llmsvc import atomic
from llmsvc.proxy.auth import KeyDirectory
from llmsvc.proxy.fair_queue import FairQueue
from llmsvc.proxy.ledger import Ledger
from llmsvc.proxy.unloaded import Memory
from llmsvc.proxy.upstream import Upstream

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 0.5
_REWRITE_SECONDS = 10.0
_SPEED_SECONDS = 60


class Speed:
    """How fast answers were made of late."""

    def __init__(self) -> None:
        # one entry a second, for thousands of requests may end in one
        self._seconds: collections.deque[list[float]] = collections.deque(maxlen=_SPEED_SECONDS)

    def note(self, tokens: int, seconds: float) -> None:
        """An answer of so many tokens was complete; the model took so long for it."""
        now = int(time.monotonic())
        if not self._seconds or self._seconds[-1][0] != now:
            self._seconds.append([now, 0, 0.0])
        self._seconds[-1][1] += tokens
        self._seconds[-1][2] += seconds

    def tokens_per_second(self) -> float | None:
        """Completion tokens per second of the model's time, over the last 60 s; None without an answer."""
        oldest = time.monotonic() - _SPEED_SECONDS
        recent = [entry for entry in self._seconds if entry[0] >= oldest]
        spent = sum(entry[2] for entry in recent)
        return round(sum(entry[1] for entry in recent) / spent, 1) if spent > 0 else None


@dataclasses.dataclass(frozen=True)
class Status:
    """Collects the state from those who know it."""

    keys: KeyDirectory
    queue: FairQueue
    upstream: Upstream
    ledger: Ledger
    speed: Speed
    memory: Memory

    def now(self) -> dict[str, object]:
        """The fields of the file, without the time of writing. Times are Unix times, the backlog is bytes."""
        backend, loading = self.upstream.backend, self.queue.loading
        switch = self.upstream.last_switch
        return {
            "model": backend.name if backend else None,
            "since": backend.created if backend else None,
            "unloaded": self._unloaded(),
            "coming": loading.name if loading else None,
            "progress": loading.percent if loading else None,
            "loading": loading.text if loading else None,
            "running": self.upstream.running,
            "slots": self.slots,
            "waiting": self.queue.waiting,
            "expected_seconds": self.queue.expected_seconds(self.queue.waiting + 1),
            "held_since": self.upstream.lost_at,
            "tokens_per_second": self.speed.tokens_per_second(),
            "database": self.keys.database_ok,
            "ledger_backlog": self.ledger.backlog,
            "last_switch": {
                "at": switch.at,
                "from": switch.from_model,
                "to": switch.to_model,
                "seconds": switch.seconds,
                "result": switch.result,
            }
            if switch
            else None,
        }

    @property
    def slots(self) -> int:
        """How many requests the model does at once; 0 without one."""
        return self.upstream.backend.slots if self.upstream.backend else 0

    def line(self) -> str:
        """The same in a few words, for `systemctl status`."""
        backend, loading = self.upstream.backend, self.queue.loading
        unloaded = self._unloaded()
        none = f"{unloaded} is stopped until the next request" if unloaded else "no model is ready"
        model = f"serving {backend.name}" if backend else none
        coming = f" ({loading})" if loading else ""
        of = f" of {self.slots}" if self.slots > 1 else ""
        counts = f"{self.upstream.running}{of} running, {self.queue.waiting} waiting"
        return f"{model}{coming}, {counts}; database {'ok' if self.keys.database_ok else 'not reachable'}"

    def _unloaded(self) -> str | None:
        """The model that the next request starts, for it was stopped as nobody used it."""
        idle = self.memory.model if self.upstream.backend is None else None
        return idle.name if idle else None


async def keep(status: Status, file: Path) -> None:
    """Writes the file for ever, soon after each change and at least every 10 s; to be run as a task."""
    last: dict[str, object] = {}
    written = 0.0
    failed = False
    while True:
        now = status.now()
        if now != last or time.monotonic() - written >= _REWRITE_SECONDS:
            last, written = now, time.monotonic()
            try:
                atomic.write(file, json.dumps({"at": time.time(), **now}) + "\n", 0o644, sync=False)
                failed = False
            except OSError as error:
                if not failed:
                    _log.warning("the status cannot be shown: %s", error)
                failed = True
        await asyncio.sleep(_LOOK_SECONDS)
