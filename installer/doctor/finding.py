"""What a check finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from installer.doctor.host import Host

INSTALL = "sudo llmsvc install"
"""The fix of most that differs from how it was installed."""
RELOAD = "sudo systemctl daemon-reload"
"""The fix of what systemd, or our generator in it, has not read yet."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    :ivar name: what scripts know it by: `pepper-wrong`; stable
    :ivar level: error: requests fail, now or after the next start; warning: somebody should look at it
    :ivar what: what is not as it should be
    :ivar why: what comes of it
    :ivar fix: a command to be pasted as it stands, which begins with `sudo `; or, where the admin has to
        decide or to fill in, what to do in words
    """

    name: str
    level: Literal["error", "warning"]
    what: str
    why: str
    fix: str

    @property
    def command(self) -> str | None:
        """The fix, where nothing is to be decided or filled in."""
        return self.fix if self.fix.startswith("sudo ") else None


def error(name: str, what: str, why: str, fix: str) -> Finding:
    """Something with which requests fail, now or after the next start."""
    return Finding(name, "error", what, why, fix)


def warning(name: str, what: str, why: str, fix: str) -> Finding:
    """Something at which somebody should look."""
    return Finding(name, "warning", what, why, fix)


Check = Callable[["Host"], Iterator[Finding]]
"""Looks at one concern of the host. An llmsvc.errors.Error or OSError of it is a finding too."""
