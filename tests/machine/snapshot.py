"""All of this machine that an installation touches, as lines of text: files, users, databases, units.

Runs in the machine, with any Python: `python snapshot.py [--installed]`. With `--installed` the services run,
and what they write all the time is left out.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator

TREES = ("/etc", "/home", "/opt", "/root", "/run", "/srv", "/tmp", "/usr/local", "/var")
LEFT_OUT = re.compile(
    r"/etc/(.*-|\.pwd\.lock|mtab|ld\.so\.cache|systemd/system/multi-user\.target\.wants/postgresql\.service)"
    # of an installation's lock
    r"|/run/llmsvc-install"
    r"|/opt/llmsvc/releases|/root/(elsewhere|\.cache|\..*)|/src"
    # what systemd, journald, apt and PostgreSQL keep for themselves
    r"|/run/(?!llm|llama).*|/var/(cache|lib/(apt|dpkg|postgresql|private|sgml-base|systemd(?!/timers).*))"
    r"|/var/lib/systemd/timers/(?!stamp-llm).*|/var/log/(journal|postgresql|apt|.*tmp.*|lastlog|faillog)"
    r"|/(var/)?tmp/(systemd-private-.*|namespace-.*|faults.*|pymp-.*)"
)
RUNNING = re.compile(
    r"/run/(llm|llama).*|/var/lib/llmsvc/(proxy|good-models|used-models|backups|\.settings.*).*"
)
LIMITS = "/var/lib/llmsvc/proxy/limits.json"
"""The proxy writes it at its end, with the times of requests."""
ONESHOTS = ("llmsvc-models.service", "llmsvc-models-reload.service")
"""They run for a moment whenever models.d has changed."""
OURS = ("llm*", "llama*", "auth-proxy*")
TABLES = (
    "select * from llama_migrations order by 1",
    "select id, username, role, enabled from llama_users order by 1",
    "select id, user_id, prefix from llama_api_keys order by 1",
)
_hashes: dict[tuple[str, int, int, int], str] = {}


def snapshot(*, installed: bool = False) -> list[str]:
    """The lines.

    :param installed: leave out what running services write
    """
    lines = [line for tree in TREES for line in _tree(tree, installed)]
    for command in ("list-units --all --plain", "list-unit-files"):
        shown = _run("systemctl", *command.split(), "--no-legend", *OURS).splitlines()
        column = 2 if "--all" in command else 1
        words = [line.split() for line in shown]
        lines += [
            f"{command.split()[0]} {word[0]} {word[column]}"
            for word in words
            # systemd forgets those that are inactive when it likes
            if column == 1 or (word[0] not in ONESHOTS and word[column] != "inactive")
        ]
    lines += sorted(_sql("select datname from pg_database union all select rolname from pg_roles"))
    if installed:
        lines += _run(
            "runuser", "-u", "llmsvc-proxy", "--", *_PSQL, "-d", "llmsvc", *_commands()
        ).splitlines()
        lines += [f"column {line}" for line in _sql(_COLUMNS, "llmsvc")]
    return [line for line in lines if not line.startswith(("/opt/llmsvc d", "/opt d"))]


_COLUMNS = (
    "select table_name, column_name, data_type from information_schema.columns"
    " where table_schema = 'public' order by 1, 2"
)
_PSQL = ("psql", "-XAtq")


def _commands() -> list[str]:
    return [word for table in TABLES for word in ("-c", table)]


def _sql(query: str, database: str = "postgres") -> list[str]:
    return _run("runuser", "-u", "postgres", "--", *_PSQL, "-d", database, "-c", query).splitlines()


def _tree(path: str, installed: bool) -> Iterator[str]:
    try:
        entries = sorted(os.scandir(path), key=lambda entry: entry.name)
    except OSError:
        return
    for entry in entries:
        place = entry.path
        if LEFT_OUT.fullmatch(place) or (installed and RUNNING.fullmatch(place)):
            continue
        try:
            yield f"{place} {_described(place, entry.stat(follow_symlinks=False))}"
        except FileNotFoundError:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from _tree(place, installed)


def _described(path: str, found: os.stat_result) -> str:
    kind = stat.S_IFMT(found.st_mode)
    what = f"{kind:o} {found.st_mode & 0o7777:o} {found.st_uid}:{found.st_gid}"
    if kind == stat.S_IFLNK:
        return f"{what} {os.readlink(path)}"
    if kind == stat.S_IFDIR:
        return f"d{what}"
    if kind != stat.S_IFREG or path.startswith("/var/log/") or path == LIMITS:
        return what
    key = (path, found.st_ino, found.st_size, found.st_mtime_ns)
    if key not in _hashes:
        digest = hashlib.sha256()
        with open(path, "rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        _hashes[key] = digest.hexdigest()[:16]
    return f"{what} {_hashes[key]}"


def _run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, cwd="/", check=False).stdout


if __name__ == "__main__":
    print("\n".join(snapshot(installed="--installed" in sys.argv)))
