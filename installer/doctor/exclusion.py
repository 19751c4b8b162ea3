"""That exactly one model runs: the generator, and what it wrote."""

from __future__ import annotations

import itertools
import os
import re
from collections.abc import Iterator
from pathlib import Path

from installer.doctor.finding import INSTALL, RELOAD, Finding, error
from installer.doctor.host import Host
from llmsvc import paths
from llmsvc.library import store
from llmsvc.systemd import manager

OUTPUT = Path("/run/systemd/generator")
_CONFLICTS = re.compile(r"^Conflicts=(.*)$", re.MULTILINE)


def check(host: Host) -> Iterator[Finding]:
    """The generator is there, ran, and its output excludes every pair of models."""
    if not host.systemd:
        return
    generator = paths.GENERATORS / "llmsvc-generator"
    if not os.access(generator, os.X_OK):
        yield error(
            "generator",
            f"{generator} {'cannot be run' if generator.exists() else 'is missing'}",
            "after the next daemon-reload no model can start",
            f"sudo chmod 755 {generator} && {RELOAD}" if generator.exists() else INSTALL,
        )
    if len(host.running) > 1:
        yield error(
            "two-models",
            f"{' and '.join(host.running)} run at once",
            "they share memory and GPU, and requests go to either of them",
            f"sudo systemctl stop {manager.unit(host.running[-1])} && {RELOAD}",
        )
    conflicts = {name: _conflicts(name) for name in host.models}
    missing = sorted(name for name, found in conflicts.items() if found is None)
    for name in missing:
        yield error(
            "exclusion-missing",
            f"systemd does not know the model {name}: {_drop_in(name)} is missing",
            f"{manager.unit(name)} refuses to start",
            RELOAD,
        )
    known = {name: found for name, found in conflicts.items() if found is not None}
    for one, other in itertools.combinations(sorted(known), 2):
        if manager.unit(other) not in known[one] and manager.unit(one) not in known[other]:
            yield error(
                "exclusion-broken",
                f"{one} and {other} do not exclude each other",
                "both could run at once",
                f"{INSTALL} && {RELOAD}",
            )
            break
    yield from _default()


def _default() -> Iterator[Finding]:
    default = store.default_model()
    if not default or not store.env_file(default).exists():
        return  # models.py tells
    if not (OUTPUT / f"multi-user.target.wants/{manager.unit(default)}").is_symlink():
        yield error(
            "boot",
            f"the default model {default} is not started at boot",
            "after a boot no model runs",
            RELOAD,
        )


def _drop_in(name: str) -> Path:
    return OUTPUT / f"{manager.unit(name)}.d/50-llmsvc-exclusive.conf"


def _conflicts(name: str) -> set[str] | None:
    """The units that `name` excludes; None where the generator has not written it."""
    try:
        text = _drop_in(name).read_text(encoding="utf-8")
    except OSError:
        return None
    return {unit for line in _CONFLICTS.findall(text) for unit in line.split()}
