"""Tells the admin what only the proxy sees, by starting llmsvc-alert@KIND.service, once for each trouble."""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable

from llmsvc.errors import Error
from llmsvc.process import run
from llmsvc.proxy.auth import KeyDirectory
from llmsvc.proxy.ledger import Ledger

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 1.0
_START_SECONDS = 30.0
_DATABASE_SECONDS = 30.0
_SPOOL_FILLING = 0.75
_SPOOL_FINE = 0.5


def start_unit(kind: str) -> threading.Thread:
    """Starts the alert's unit without waiting for anything; a failure is a line in the journal."""

    def start() -> None:
        unit = f"llmsvc-alert@{kind}.service"
        try:
            done = run(
                ["systemctl", "start", "--no-block", "--no-ask-password", unit],
                check=False,
                seconds=_START_SECONDS,
            )
        except (Error, OSError) as error:
            _log.warning("%s cannot be started: %s", unit, error)
            return
        if done.returncode:
            _log.warning("%s cannot be started: %s", unit, done.stderr.strip())

    # a daemon: neither the proxy nor its end waits for a systemd that does not answer
    thread = threading.Thread(target=start, name=f"alert-{kind}", daemon=True)
    thread.start()
    return thread


class Alerts:
    """Looks after the database and the ledger.

    :param alert: told the kind of trouble
    """

    def __init__(
        self, keys: KeyDirectory, ledger: Ledger, alert: Callable[[str], object] = start_unit
    ) -> None:
        self._keys = keys
        self._ledger = ledger
        self._alert = alert
        self._database_seen = time.monotonic()
        self._database_told = False
        self._spool_told = False

    def look(self) -> None:
        """Looks once."""
        now = time.monotonic()
        if self._keys.database_ok:
            self._database_seen = now
            self._database_told = False
        elif now - self._database_seen >= _DATABASE_SECONDS and not self._database_told:
            self._database_told = True
            self._alert("database-down")
        fill = self._ledger.fill
        if fill < _SPOOL_FINE:
            self._spool_told = False
        elif fill > _SPOOL_FILLING and not self._spool_told:
            self._spool_told = True
            self._alert("spool-filling")

    async def run(self) -> None:
        """Looks for ever; to be run as a task."""
        while True:
            self.look()
            await asyncio.sleep(_LOOK_SECONDS)
