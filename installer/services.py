"""The units that an installation starts and restarts: what ran before, and how to get back there."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from llmsvc import paths
from llmsvc.process import run
from llmsvc.systemd import manager

POSTGRESQL = "postgresql.service"
WATCH = ("llmsvc-models.path", "llmsvc-models.service", "llmsvc-models-reload.service")
"""What makes changes in models.d known to systemd; the first is enabled."""
PRUNE = "llmsvc-prune.timer"
SLICES = (manager.SLICE, "llmsvc.slice")
"""Of the backends; the second is made by systemd, above the first."""
_ALL = (manager.SOCKET, manager.PROXY, manager.SERVER_SOCKET, WATCH[0], PRUNE)


def at_boot(*, proxy: bool) -> tuple[str, ...]:
    """What is enabled; the default model is by the generator.

    :param proxy: False in single-key mode
    """
    if proxy:
        return manager.SOCKET, manager.PROXY, WATCH[0], PRUNE
    return manager.SERVER_SOCKET, WATCH[0]


@dataclasses.dataclass(frozen=True)
class Unit:
    """A unit as it is. `run` names the time since it was last started; empty where it is not active."""

    active: bool
    enabled: bool
    run: str


def units(names: Sequence[str]) -> dict[str, Unit]:
    """Units by name; one that does not exist is neither active nor enabled."""
    if not names:
        return {}
    properties = "Id,ActiveState,UnitFileState,InvocationID"
    blocks = run(["systemctl", "show", "-p", properties, *names]).stdout.strip().split("\n\n")
    found = {}
    for name, block in zip(names, blocks, strict=True):
        shown = dict(line.partition("=")[::2] for line in block.splitlines())
        active = shown.get("ActiveState") in ("active", "reloading", "activating")
        enabled = shown.get("UnitFileState") == "enabled"
        found[name] = Unit(active, enabled, shown.get("InvocationID", "") if active else "")
    return found


def snapshot() -> dict[str, Any]:
    """What runs now, fit for JSON; for return_to()."""
    model = manager.active_model()
    names = [*_ALL, *SLICES, POSTGRESQL, *([manager.unit(model)] if model else [])]
    return {"model": model, "runs": {name: unit.run for name, unit in units(names).items()}}


def return_to(before: Mapping[str, Any]) -> None:
    """Has systemd read its units anew; what ran at snapshot() runs, what was started or restarted since then
    runs with the texts of now, and the rest is stopped.

    :raises errors.Error: systemctl failed
    """
    manager.daemon_reload()
    runs: dict[str, str] = before["runs"]
    now = units(list(runs))
    stop([name for name, unit in now.items() if unit.active and not runs[name]])
    again = [name for name, was in runs.items() if was and now[name].run != was and name not in SLICES]
    # it may be others' too
    if POSTGRESQL in again and now[POSTGRESQL].active:
        again.remove(POSTGRESQL)
    model = before["model"]
    if again:
        # what was started too often of late would not start again
        run(["systemctl", "reset-failed", *again], check=False)
    if manager.SERVER_SOCKET in again:
        stop([state.unit for state in manager.instances()])
        run(["systemctl", "restart", manager.SERVER_SOCKET])
        again.append(manager.unit(model or ""))
    if manager.SOCKET in again:
        # a socket is not started while its service runs
        run(["systemctl", "stop", manager.PROXY, manager.SOCKET])
        run(["systemctl", "start", manager.SOCKET, manager.PROXY])
    for name in again:
        if name not in (manager.SOCKET, manager.SERVER_SOCKET, manager.unit(model or "")) and not (
            name == manager.PROXY and manager.SOCKET in again
        ):
            run(["systemctl", "restart", name])
    if model is not None and manager.unit(model) in again:
        if manager.active_model() == model:
            manager.restart(model)
        else:
            manager.switch(model)


def failed() -> bool:
    """Whether the proxy or a model has failed to start."""
    ours = (manager.SOCKET, manager.PROXY, manager.unit("*"))
    listed = run(["systemctl", "list-units", "--failed", "--plain", "--no-legend", *ours], check=False)
    return bool(listed.stdout.strip())


def stop(names: Sequence[str]) -> None:
    """Stops units that may no longer exist."""
    known = [name for name, unit in units(names).items() if unit.active]
    if known:
        run(["systemctl", "stop", *known])
    if names:
        run(["systemctl", "reset-failed", *names], check=False)


def disable(names: Sequence[str]) -> None:
    """Disables units that may no longer exist."""
    known = [name for name, unit in units(names).items() if unit.enabled]
    if known:
        run(["systemctl", "disable", "-q", *known])


def links(name: str, text: str) -> list[Path]:
    """The links by which a unit of ours is enabled.

    :param text: of the unit
    """
    targets = re.findall(r"^WantedBy=(.*)$", text, re.MULTILINE)
    return [paths.DROP_INS / f"{target}.wants" / name for target in targets]


def listening(socket: str) -> set[str]:
    """Where a socket unit listens as systemd knows it; nothing where it does not."""
    shown = run(["systemctl", "show", "-p", "Listen,ActiveState", socket], check=False).stdout
    lines = [line.partition("=") for line in shown.splitlines()]
    if ("ActiveState", "=", "active") not in lines:
        return set()
    return {value.split(" ")[0] for key, _, value in lines if key == "Listen"}
