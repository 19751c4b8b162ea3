"""Tells systemd our state (sd_notify(3)); does nothing where systemd did not start us."""

from __future__ import annotations

import functools
import os

import sdnotify


@functools.cache
def _notifier() -> sdnotify.SystemdNotifier:
    return sdnotify.SystemdNotifier()


def ready(status: str) -> None:
    """The service is up; `status` shows in `systemctl status`."""
    _send(f"READY=1\nSTATUS={_ascii(status)}")


def status(text: str) -> None:
    """What the service is doing, one line."""
    _send(f"STATUS={_ascii(text)}")


def stopping(text: str) -> None:
    """The service has begun to stop."""
    _send(f"STOPPING=1\nSTATUS={_ascii(text)}")


def watchdog() -> None:
    """One sign of life; due every watchdog_seconds()."""
    _send("WATCHDOG=1")


def watchdog_seconds() -> float | None:
    """How often watchdog() is due: a third of the unit's WatchdogSec; None where there is none."""
    usec = os.environ.get("WATCHDOG_USEC", "")
    pid = os.environ.get("WATCHDOG_PID", str(os.getpid()))
    return int(usec) / 3e6 if usec.isdigit() and int(usec) > 0 and pid == str(os.getpid()) else None


def _send(message: str) -> None:
    # without a socket sdnotify would leave one of its own open
    if os.environ.get("NOTIFY_SOCKET"):
        _notifier().notify(message)


def _ascii(text: str) -> str:
    # sdnotify encodes latin-1 and swallows the error: one other character would lose the whole message
    return " ".join(text.encode("ascii", "replace").decode().split())
