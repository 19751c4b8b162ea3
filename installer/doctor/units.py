"""The unit files against what was installed, and the units against what should run."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from installer import facts, render
from installer.doctor.finding import INSTALL, RELOAD, Finding, error, warning
from installer.doctor.host import Host
from installer.doctor.network import taken
from llmsvc import paths
from llmsvc.errors import Error
from llmsvc.systemd import manager


def written(host: Host) -> Iterator[Finding]:
    """The files that we wrote: there, and with our text."""
    if host.manifest is None:
        yield warning(
            "manifest",
            f"{paths.MANIFEST} is {'damaged' if paths.MANIFEST.exists() else 'missing'}",
            "nothing tells which files are llmsvc's: an upgrade would keep them as if you had edited them",
            f"sudo mv {paths.MANIFEST} {paths.MANIFEST}.damaged && {INSTALL}"
            if paths.MANIFEST.exists()
            else INSTALL,
        )
        return
    for name, sha256 in sorted(host.manifest.written.items()):
        path = Path(name)
        beside = path.with_name(f"{path.name}.llmsvc-new")
        if not path.exists() and path.parent == paths.POLKIT_RULES:
            continue  # machine.py tells
        if not path.exists():
            yield error("file-missing", f"{path} is missing", "llmsvc needs it", INSTALL)
        elif hashlib.sha256(path.read_bytes()).hexdigest() != sha256:
            new = f"; {beside} has the text of this version" if beside.exists() else ""
            yield warning(
                "file-edited",
                f"{path} was edited{new}",
                "your text stays, and what newer versions change in it does not come",
                f"{_into_drop_in(path)}sudo rm {path} && {INSTALL}",
            )


def _into_drop_in(path: Path) -> str:
    """What comes before a file of ours that was edited is written anew."""
    if path.parent != paths.UNITS:
        return "if your changes may go: "
    return f"put your changes into a drop-in (sudo systemctl edit {path.name}), then "


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
    there = [name for name in host.boot if not _gone(host, name)]
    for name in there:
        yield from _state(host, name)
    loaded = [name for name in there if host.unit(name, "LoadState") == "loaded"]
    stopped = [name for name in loaded if host.unit(name, "ActiveState") in ("inactive", "deactivating")]
    if stopped and not (host.socket in stopped and taken(host)):
        yield _report(
            host, "unit-stopped", stopped, "not running", f"sudo systemctl start {' '.join(stopped)}"
        )
    disabled = [
        name
        for name in loaded
        if host.unit(name, "UnitFileState") not in ("enabled", "enabled-runtime", "static")
    ]
    if disabled:
        yield _report(
            host, "unit-disabled", disabled, "not enabled", f"sudo systemctl enable {' '.join(disabled)}"
        )
    yield from _reload(host)


def _state(host: Host, name: str) -> Iterator[Finding]:
    load = host.unit(name, "LoadState")
    mended = host.mend(name, f"sudo systemctl restart {name}")
    if load == "masked":
        yield _report(host, "unit-masked", [name], "masked", f"sudo systemctl unmask {name} && {INSTALL}")
    elif load == "not-found":
        yield _report(host, "unit-broken", [name], "not known to systemd", f"{RELOAD} && {INSTALL}")
    elif load != "loaded":
        what = f"refused by systemd ({load}){host.last_words(name)}"
        yield _report(host, "unit-broken", [name], what, mended)
    elif host.broken(name):
        failed = host.unit(name, "ActiveState") == "failed"
        what = "failed" if failed else "ending as soon as it starts, again and again"
        yield _report(host, "unit-failed", [name], f"{what}{host.last_words(name)}", mended)
    user = host.unit(name, "User")
    if name == manager.PROXY and load == "loaded" and user not in ("", paths.PROXY_USER):
        what = f"set to run as {user}, not as {paths.PROXY_USER}"
        yield _report(host, "unit-user", [name], what, mended)


def _report(host: Host, name: str, which: list[str], what: str, fix: str) -> Finding:
    """A finding about units: an error where clients are refused without them."""
    needed = host.socket in which or manager.PROXY in which
    why = "clients are refused" if needed else "models.d is not followed, or old rows are not removed"
    if name == "unit-disabled":
        why = "after a boot " + why
    if name == "unit-user":
        why = "its files and PostgreSQL are not open to that user"
    verb = "is" if len(which) == 1 else "are"
    return (error if needed else warning)(name, f"{' and '.join(which)} {verb} {what}", why, fix)


def _gone(host: Host, name: str) -> bool:
    """Whether a unit's file is missing, which written() tells."""
    file = paths.UNITS / name
    return host.manifest is not None and str(file) in host.manifest.written and not file.exists()


def _reload(host: Host) -> Iterator[Finding]:
    pending = sorted(
        name
        for name, values in host.units.items()
        if values.get("NeedDaemonReload") == "yes"
        and values.get("LoadState") == "loaded"
        and not _gone(host, name)
    )
    if pending:
        # a socket is not started while its service runs
        first = sorted(pending, key=lambda name: not name.endswith(".socket"))
        yield warning(
            "reload-pending",
            f"{', '.join(pending)}: changed on disk since systemd read it",
            "the old text counts until then",
            f"{RELOAD} && sudo systemctl try-restart {' '.join(first)}",
        )
