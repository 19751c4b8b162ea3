"""One line about what a command waits for: painted anew on a terminal, else a line for each step."""

from __future__ import annotations

import sys
import time
from types import TracebackType

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
