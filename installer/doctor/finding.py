"""What a check finds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from installer.doctor.host import Host

INSTALL = "sudo llmsvc install"
"""The fix of most that differs from how it was installed."""
REPAIR = "sudo packaging/install.sh, or install the package again"
"""The fix of what keeps `llmsvc install` itself from working."""


@dataclasses.dataclass(frozen=True)
class Finding:
    """One thing that is wrong.

    :ivar name: what scripts know it by: `pepper-wrong`; stable
    :ivar level: error: requests fail, now or after the next start; warning: somebody should look at it
    :ivar what: what is not as it should be
    :ivar why: what comes of it
    :ivar fix: a command, or what to do
    """

    name: str
    level: Literal["error", "warning"]
    what: str
    why: str
    fix: str


def error(name: str, what: str, why: str, fix: str) -> Finding:
    """Something with which requests fail, now or after the next start."""
    return Finding(name, "error", what, why, fix)


def warning(name: str, what: str, why: str, fix: str) -> Finding:
    """Something at which somebody should look."""
    return Finding(name, "warning", what, why, fix)


Check = Callable[["Host"], Iterator[Finding]]
"""Looks at one concern of the host. An llmsvc.errors.Error or OSError of it is a finding too."""
