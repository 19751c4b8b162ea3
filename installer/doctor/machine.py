"""The machine beneath: clock, disk, journal, polkit, systemd."""

from __future__ import annotations

import configparser
import ctypes
import os
import pwd
import re
import time
from collections.abc import Iterator
from pathlib import Path

from installer import facts
from installer.doctor.finding import INSTALL, Finding, error, warning
from installer.doctor.host import Host
from llmsvc import paths
from llmsvc.errors import Error
from llmsvc.library.progress import size
from llmsvc.process import run
from llmsvc.systemd import manager

_LITTLE = 200_000_000
"""Bytes below which a disk counts as full: a spool is 64 MB, and PostgreSQL stops at nothing."""
_FULL = "PostgreSQL stops, the ledger's rows wait in their spool, models cannot be added"
_JOURNALD = "sudo systemctl restart systemd-journald"
_KERNEL_LINES = "5000"
_DENIED = re.compile(r'apparmor="DENIED"|avc:\s+denied')
_OURS = re.compile(r"llmsvc|llama-server|auth-proxy")
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
            "if the clock is wrong ('timedatectl' shows what keeps it): sudo timedatectl set-ntp true; "
            f"if it is right: sudo touch {newest}",
        )
    elif host.systemd and not _in_container() and _unsynchronized():
        yield warning(
            "clock-sync",
            "the clock is not synchronized",
            "keys expire at the wrong time, and requests are counted on the wrong day",
            "sudo timedatectl set-ntp true",
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
        stats = os.statvfs(place)
        free = stats.f_bavail * stats.f_frsize
        if stats.f_flag & os.ST_RDONLY:
            yield error(
                "disk-read-only",
                f"the disk of {place} is mounted read-only",
                _FULL,
                f"see 'sudo dmesg | tail -30': after an error of the disk it needs a check first; then sudo "
                f"mount -o remount,rw {_mount(place)}",
            )
        elif free < _LITTLE:
            yield error(
                "disk",
                f"{size(free)} are free on the disk of {place}",
                _FULL,
                f"free some: 'sudo du -xh --max-depth=2 {_mount(place)} | sort -h | tail' shows what takes "
                "it; 'sudo journalctl --vacuum-size=500M' makes the journal smaller, 'llmsvc model list' "
                "shows models that nobody uses",
            )
        elif stats.f_files and not stats.f_favail:
            yield error(
                "disk-files",
                f"no more files can be made on the disk of {place}: it has {stats.f_files} of them",
                _FULL,
                f"'sudo du -x --inodes {_mount(place)} | sort -n | tail' shows where they are",
            )


def _mount(place: Path) -> Path:
    return next(parent for parent in (place, *place.parents) if parent.is_mount())


def state(host: Host) -> Iterator[Finding]:
    """Whether the proxy may write where its ledger lies, and what is there is its own."""
    user = host.unit(manager.PROXY, "User")
    if not host.config.llama_proxy_enabled or user not in ("", paths.PROXY_USER):
        return  # units.py tells of another user, whose they are then
    place = paths.PROXY_STATE
    if not place.is_dir():
        if host.unit(manager.PROXY, "ActiveState") == "active":
            yield error(
                "state-missing",
                f"{place} is missing",
                "the ledger's rows go to a file that is lost as soon as the proxy ends",
                f"sudo systemctl restart {manager.PROXY}",
            )
        return
    try:
        owner = pwd.getpwnam(paths.PROXY_USER).pw_uid
    except KeyError:
        return  # credentials.py tells
    if alien := next((path for path in (place, *place.iterdir()) if path.stat().st_uid != owner), None):
        yield error(
            "state-owner",
            f"{alien} is not {paths.PROXY_USER}'s (uid {alien.stat().st_uid})",
            "keys are not kept over a restart, and the ledger's rows may not be written",
            f"sudo chown -R {paths.PROXY_USER}:{paths.PROXY_USER} {place} && "
            f"sudo systemctl restart {manager.PROXY}",
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
    if storage == "none":
        fix = _without("Storage", shown)
        yield error("journal", "journald stores nothing (Storage=none)", "there is no access log at all", fix)
    elif storage == "volatile" or (storage == "auto" and not Path("/var/log/journal").is_dir()):
        yield warning(
            "journal-volatile",
            "the journal is kept in memory alone",
            "the access log, and why a model failed, are gone after a boot",
            _without("Storage", shown)
            if storage == "volatile"
            else f"sudo mkdir -p /var/log/journal && {_JOURNALD} && sudo journalctl --flush",
        )
    level = values.get("MaxLevelStore", "debug")
    if _LEVELS.get(level, int(level) if level.isdigit() else 7) < _INFO:
        yield warning(
            "journal-level",
            f"journald keeps nothing below {level} (MaxLevelStore=)",
            "successful requests are not in the access log",
            _without("MaxLevelStore", shown),
        )
    limit = values.get("SystemMaxUse", "")
    if limit and (most := _bytes(limit)) is not None and most < _JOURNAL_LITTLE:
        yield warning(
            "journal-small",
            f"the journal may take {limit} (SystemMaxUse=)",
            "at one entry a request that holds few days",
            _without("SystemMaxUse", shown),
        )


def _without(setting: str, shown: str) -> str:
    """Takes a setting of journald back to its default.

    :param shown: by `systemd-analyze cat-config`, where `# FILE` stands above the text of each
    """
    file, found = "", ""
    for line in shown.splitlines():
        if line.startswith("# /"):
            file = line[2:]
        elif line.partition("=")[0].strip() == setting:
            found = file
    if found.startswith(("/etc/", "/run/")):
        return f"sudo sed -i '/^ *{setting} *=/d' {found} && {_JOURNALD}"
    return f"set another {setting}= in a file of /etc/systemd/journald.conf.d, then {_JOURNALD}"


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
    elif not (rule := paths.POLKIT_RULES / "50-llmsvc.rules").exists():
        yield warning("polkit-rule", f"{rule} is missing", who, INSTALL)


def denials(host: Host) -> Iterator[Finding]:
    """What SELinux or AppArmor denied our services since the boot, as the kernel tells."""
    if not host.systemd or _in_container():
        return
    log = run(["journalctl", "-q", "-k", "-b", "-o", "cat", "-n", _KERNEL_LINES], check=False).stdout
    denied = [line for line in log.splitlines() if _DENIED.search(line) and _OURS.search(line)]
    if not denied:
        return
    selinux = "avc:" in denied[-1]
    who = "SELinux" if selinux else "AppArmor"
    again = f"sudo systemctl restart {manager.PROXY} && sudo llmsvc restart"
    profile = re.search(r'profile="([^"]+)"', denied[-1])
    yield warning(
        "denied",
        f"{who} denied {len(denied)} times since the boot, the last time: {denied[-1]}",
        "a service may not start, or not do all that it should",
        f"sudo restorecon -R {paths.PREFIX} {paths.ETC} {paths.STATE} && {again}"
        if selinux
        else f"allow it in the profile {profile[1] if profile else 'that it names'}, then "
        f"sudo systemctl reload apparmor && {again}",
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
