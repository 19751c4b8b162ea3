"""Writes structured entries to journald over its native protocol (systemd.io/JOURNAL_NATIVE_PROTOCOL).

Where there is no journal, or we were started by hand, entries go to stderr as plain lines. The journal never
blocks a service: a full socket drops the entry and counts it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import struct
import sys
from collections.abc import Mapping

SOCKET = "/run/systemd/journal/socket"

_PRIORITIES = {logging.DEBUG: 7, logging.INFO: 6, logging.WARNING: 4, logging.ERROR: 3, logging.CRITICAL: 2}


class Journal:
    """One connection to journald. `dropped` counts the entries that a full socket refused."""

    def __init__(self, identifier: str, path: str = SOCKET) -> None:
        self.identifier = identifier
        self.dropped = 0
        self._socket: socket.socket | None = None
        # systemd sets JOURNAL_STREAM where it connected our stderr to the journal
        if path != SOCKET or os.environ.get("JOURNAL_STREAM"):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            try:
                connection.setblocking(False)
                connection.connect(path)
                self._socket = connection
            except OSError:
                connection.close()

    def send(self, message: str, priority: int = 6, fields: Mapping[str, object] | None = None) -> None:
        """Writes one entry; fields whose value is None are left out.

        :param priority: syslog priority, 0 (emergency) to 7 (debug)
        :param fields: further fields; names in [A-Z0-9_], not beginning with `_`
        """
        if self._socket is None:
            print(message, file=sys.stderr, flush=True)
            return
        try:
            self._socket.send(_entry(self.identifier, message, priority, fields or {}))
        except OSError:
            self.dropped += 1


def _entry(identifier: str, message: str, priority: int, fields: Mapping[str, object]) -> bytes:
    texts = [f"MESSAGE={message}", f"PRIORITY={priority}", f"SYSLOG_IDENTIFIER={identifier}"]
    texts += [f"{name}={value}" for name, value in fields.items() if value is not None]
    whole = "\n".join(texts)
    if whole.count("\n") < len(texts):
        return whole.encode("utf-8", "replace") + b"\n"
    return b"".join(map(_field, texts))


def _field(text: str) -> bytes:
    name, _, value = text.encode("utf-8", "replace").partition(b"=")
    if b"\n" in value:
        return name + b"\n" + struct.pack("<Q", len(value)) + value + b"\n"
    return name + b"=" + value + b"\n"


class Handler(logging.Handler):
    """Sends log records to a Journal, so that `logging` of ours and of libraries keeps its priority."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self._journal = journal

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._journal.send(
                self.format(record), _PRIORITIES.get(record.levelno, 6), {"LOGGER": record.name}
            )
        except Exception:  # logging must never break the caller
            self.handleError(record)


def note(identifier: str, message: str, fields: Mapping[str, object], path: str = SOCKET) -> None:
    """Writes one entry for a command, whose stderr is the person's; nothing where there is no journal."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
        connection.connect(path)
        connection.send(_entry(identifier, message, 6, fields))


def setup(identifier: str, level: int = logging.INFO) -> Journal:
    """Sends the root logger to the journal and returns it for structured entries."""
    journal = Journal(identifier)
    root = logging.getLogger()
    root.handlers[:] = [Handler(journal)]
    root.setLevel(level)
    return journal
