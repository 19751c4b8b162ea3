"""The unit files against what was installed, and the units against what should run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from installer import facts, render
from installer.doctor.finding import INSTALL, Finding, error, warning
from installer.doctor.host import Host
from llmsvc import paths
from llmsvc.errors import Error
from llmsvc.systemd import manager


def written(host: Host) -> Iterator[Finding]:
    """The files that we wrote: there, and with our text."""
    if host.manifest is None:
        yield warning(
            "manifest",
            f"{paths.MANIFEST} is missing or damaged",
            "nothing tells which files are llmsvc's: an upgrade would keep them as if you had edited them",
            f"sudo mv {paths.MANIFEST} {paths.MANIFEST}.damaged; {INSTALL}",
        )
        return
    for name, sha256 in sorted(host.manifest.written.items()):
        path = Path(name)
        beside = path.with_name(f"{path.name}.llmsvc-new")
        if not path.exists():
            yield error("file-missing", f"{path} is missing", "llmsvc needs it", INSTALL)
        elif hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            new = f"; {beside} has the text of this version" if beside.exists() else ""
            yield warning(
                "file-edited",
                f"{path} was edited{new}",
                "your text stays, and what newer versions change in it does not come",
                f"put your changes into a drop-in (systemctl edit {path.name}), "
                f"then: sudo rm {path} && {INSTALL}",
            )


def current(host: Host) -> Iterator[Finding]:
    """Whether the rendered units are those of this version and this machine."""
    if host.manifest is None or not host.systemd:
        return
    try:
        known = facts.gather()
    except Error:
        return  # code.py tells what is wrong with the environment
    texts = render.units(known, host.config)
    for name, text in sorted(texts.items()):
        path = paths.UNITS / name
        sha256 = host.manifest.written.get(str(path))
        if sha256 and path.exists() and sha256 != hashlib.sha256(text.encode()).hexdigest():
            yield warning(
                "unit-outdated",
                f"{path} is not what this version writes on this machine",
                "it was written by another version, or for another GPU or systemd",
                INSTALL,
            )


def states(host: Host) -> Iterator[Finding]:
    """Whether our units are loaded, enabled and running as they should."""
    if not host.systemd:
        yield error(
            "systemd",
            "systemd does not run on this machine",
            "llmsvc is made of systemd units",
            "packaging/install.sh --sandbox sets it up in a throwaway machine where systemd runs",
        )
        return
    for name in host.boot:
        load, active, enabled = (
            host.unit(name, what) for what in ("LoadState", "ActiveState", "UnitFileState")
        )
        needed = name in (host.socket, manager.PROXY)
        report = error if needed else warning
        why = "clients are refused" if needed else "models.d is not followed, or old rows are not removed"
        if load == "masked":
            yield report(
                "unit-masked", f"{name} is masked", f"it cannot start: {why}", f"sudo systemctl unmask {name}"
            )
        elif load != "loaded":
            yield report(
                "unit-broken", f"systemd says of {name}: {load}", why, f"systemctl status {name}; {INSTALL}"
            )
        elif active == "failed":
            yield report(
                "unit-failed",
                f"{name} has failed",
                why,
                f"journalctl -u {name} -n 20; sudo systemctl restart {name}",
            )
        elif active not in ("active", "activating", "reloading"):
            yield report("unit-stopped", f"{name} does not run", why, f"sudo systemctl start {name}")
        if load == "loaded" and enabled not in ("enabled", "enabled-runtime", "static"):
            yield report(
                "unit-disabled", f"{name} is {enabled or 'not enabled'}", "it does not start at boot", INSTALL
            )
    pending = [name for name, values in host.units.items() if values.get("NeedDaemonReload") == "yes"]
    if pending:
        yield warning(
            "reload-pending",
            f"{', '.join(sorted(pending))}: changed on disk since systemd read it",
            "the old text counts until then",
            "sudo systemctl daemon-reload, then restart what changed",
        )
