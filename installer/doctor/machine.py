"""The machine beneath: clock, disk, journal, polkit, systemd."""

from __future__ import annotations

import configparser
import ctypes
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from installer import facts
from installer.doctor.finding import Finding, error, warning
from installer.doctor.host import Host
from llmsvc import paths
from llmsvc.errors import Error
from llmsvc.library.progress import size
from llmsvc.process import run

_LITTLE = 200_000_000
"""Bytes below which a disk counts as full: a spool is 64 MB, and PostgreSQL stops at nothing."""
_FUTURE_SECONDS = 300.0
_STA_UNSYNC = 0x0040
_INFO = 6
_LEVELS = {"emerg": 0, "alert": 1, "crit": 2, "err": 3, "warning": 4, "notice": 5, "info": 6, "debug": 7}
_JOURNAL_LITTLE = 64 << 20


def clock(host: Host) -> Iterator[Finding]:
    """Whether time goes forward, and somebody keeps it right."""
    now = time.time()
    newest = max(
        (
            file
            for file in (paths.MANIFEST, paths.PROXY_STATE / "keys.json", paths.GOOD_MODELS)
            if file.exists()
        ),
        key=lambda file: file.stat().st_mtime,
        default=None,
    )
    if newest and newest.stat().st_mtime > now + _FUTURE_SECONDS:
        yield error(
            "clock",
            f"the clock shows {_moment(now)}, but {newest} was written {_moment(newest.stat().st_mtime)}",
            "keys expire at the wrong time, and requests are counted on the wrong day",
            "timedatectl shows what keeps the clock; sudo timedatectl set-ntp true",
        )
    elif host.systemd and not _in_container() and _unsynchronized():
        yield warning(
            "clock-sync",
            "the clock is not synchronized",
            "keys expire at the wrong time, and requests are counted on the wrong day",
            "sudo timedatectl set-ntp true (systemd-timesyncd or chrony keeps it then)",
        )


def _moment(epoch: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(epoch))


def _in_container() -> bool:
    return run(["systemd-detect-virt", "--quiet", "--container"], check=False).returncode == 0


def _unsynchronized() -> bool:
    """The kernel's own word for it, adjtimex(2); `timedatectl` asks the same, by way of D-Bus."""
    buffer = ctypes.create_string_buffer(512)
    libc = ctypes.CDLL(None)
    # struct timex: modes (int), padding, offset, freq, maxerror, esterror (long each), status (int)
    if libc.adjtimex(buffer) < 0:
        return False
    word = ctypes.sizeof(ctypes.c_long)
    return bool(ctypes.c_int.from_buffer(buffer, 5 * word).value & _STA_UNSYNC)


def disk(host: Host) -> Iterator[Finding]:
    """Room where something grows."""
    seen = set()
    places = [paths.PROXY_STATE, paths.STATE, host.config.llama_models_dir, Path("/var/lib/postgresql")]
    for place in (*places, Path("/var/log/journal"), Path("/")):
        if not place.is_dir() or (device := place.stat().st_dev) in seen:
            continue
        seen.add(device)
        free = shutil.disk_usage(place).free
        if free < _LITTLE:
            yield error(
                "disk",
                f"{size(free)} are free on the disk of {place}",
                "PostgreSQL stops, the ledger's rows wait in their spool, models cannot be added",
                f"free some: df -h {place}; journalctl --vacuum-size=500M; llmsvc model list",
            )


def journal(host: Host) -> Iterator[Finding]:
    """Whether the access log is kept."""
    if not host.systemd:
        return
    shown = run(["systemd-analyze", "cat-config", "systemd/journald.conf"], check=False).stdout
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    try:
        parser.read_string("\n".join(line for line in shown.splitlines() if not line.startswith("#")))
    except configparser.Error:
        return
    values = dict(parser["Journal"]) if parser.has_section("Journal") else {}
    storage = values.get("Storage", "auto").lower()
    fix = "change it in a file in /etc/systemd/journald.conf.d; sudo systemctl restart systemd-journald"
    if storage == "none":
        yield error("journal", "journald stores nothing (Storage=none)", "there is no access log at all", fix)
    elif storage == "volatile" or (storage == "auto" and not Path("/var/log/journal").is_dir()):
        yield warning(
            "journal-volatile",
            "the journal is kept in memory alone",
            "the access log, and why a model failed, are gone after a boot",
            "sudo mkdir -p /var/log/journal && sudo systemctl restart systemd-journald",
        )
    level = values.get("MaxLevelStore", "debug")
    if _LEVELS.get(level, int(level) if level.isdigit() else 7) < _INFO:
        yield warning(
            "journal-level",
            f"journald keeps nothing below {level} (MaxLevelStore=)",
            "successful requests are not in the access log",
            fix,
        )
    limit = values.get("SystemMaxUse", "")
    if limit and (most := _bytes(limit)) is not None and most < _JOURNAL_LITTLE:
        yield warning(
            "journal-small",
            f"the journal may take {limit} (SystemMaxUse=)",
            "at one entry a request that holds few days",
            fix,
        )


def _bytes(text: str) -> int | None:
    """systemd's sizes: 500M, 2G."""
    number = text.rstrip("KMGTPE")
    if not number.isdigit():
        return None
    return int(number) << 10 * " KMGTPE".index(text[len(number) : len(number) + 1] or " ")


def polkit(host: Host) -> Iterator[Finding]:
    """Whether the proxy and members of llmsvc-admin may start models."""
    if not host.systemd:
        return
    who = f"the proxy cannot start a model for a request, and members of {paths.ADMIN_GROUP} need sudo"
    loaded = run(["systemctl", "show", "-P", "LoadState", "polkit.service"], check=False).stdout.strip()
    if loaded != "loaded":
        yield warning(
            "polkit",
            f"polkit is not here ({loaded})",
            who,
            "sudo apt install polkitd (policykit-1 on older releases)",
        )
    elif not paths.POLKIT_RULES.is_dir():
        yield warning(
            "polkit-rules",
            f"there is no {paths.POLKIT_RULES}: this polkit reads no rules",
            who,
            "docs/operations.md, 'Who may', has a sudoers file instead",
        )
    elif not (paths.POLKIT_RULES / "50-llmsvc.rules").exists():
        yield warning(
            "polkit-rule", f"{paths.POLKIT_RULES / '50-llmsvc.rules'} is missing", who, "sudo llmsvc install"
        )


def systemd(host: Host) -> Iterator[Finding]:
    """Whether systemd is new enough."""
    if not host.systemd:
        return
    try:
        version = facts.systemd_version(run(["systemctl", "--version"]).stdout)
    except Error:
        return
    if version < 249:
        yield error(
            "systemd-old",
            f"systemd {version} is too old",
            "units do not work as they should",
            "upgrade to 249 or later",
        )
