"""Stops what uses the database and its pepper while both are replaced, and starts it again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from llmsvc import paths
from llmsvc.errors import Error
from llmsvc.process import run
from llmsvc.systemd import manager


@dataclasses.dataclass(frozen=True)
class Before:
    """What ran: units of the proxy, the model, and the text of its settings."""

    units: list[str]
    model: str | None
    settings: str | None


def stop() -> Before:
    """Ends the proxy in an orderly way, its socket too: a new connection would start it again."""
    if not _systemd():
        return Before([], None, None)
    wanted = [manager.SOCKET, manager.PROXY]
    units = [state.unit for state in manager.states(wanted) if state.active in ("active", "activating")]
    model = manager.active_model()
    if units:
        run(["systemctl", "stop", *wanted])
    return Before(units, model, _settings(model))


def start(before: Before, default: str | None = None) -> str | None:
    """Starts what ran, with what is on disk now; returns why the model does not run, if it should.

    :param default: the model that shall run, where another one or none did
    :raises Error: the proxy does not start
    """
    if not _systemd():
        return None
    manager.daemon_reload()
    if before.units:
        # the socket first, and alone: its service would start at the first connection anyway
        for unit in before.units:
            try:
                run(["systemctl", "start", unit])
            except Error as error:
                raise Error(error.message, hint=f"journalctl -u {unit} -n 20 tells why") from None
    wanted = default or before.model
    try:
        if wanted and wanted != before.model:
            manager.switch(wanted)
        elif wanted and _settings(wanted) != before.settings:
            manager.restart(wanted)
    except Error as error:
        return error.message
    return None


def _settings(model: str | None) -> str | None:
    file = paths.MODELS_D / f"{model}.env"
    return file.read_text(encoding="utf-8", errors="replace") if model and file.exists() else None


def _systemd() -> bool:
    """Whether systemd runs here, sd_booted(3)."""
    return Path("/run/systemd/system").is_dir()
