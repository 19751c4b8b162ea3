"""The machine as it was: kept once, and brought back to the letter in seconds, whatever was done to it.

Runs in the machine. Files, users and the clusters of PostgreSQL come back from a copy; services that ran run
again. What systemd, journald and apt keep for themselves stays (see snapshot.LEFT_OUT).
"""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

from snapshot import LEFT_OUT, OURS, TREES

RELEASES = "/opt/llmsvc/releases/"
KEPT = (RELEASES.rstrip("/"), "/var/lib/postgresql")
"""A snapshot does without these; an installation changes them all the same."""
POSTGRESQL = "postgresql*.service"


class Checkpoint:
    """:param place: for the copy; what was there goes"""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._found: dict[str, tuple[int, ...]] = {}
        """Of each file of the copy: what tells that the one on the host is still the same."""
        self._runs = [unit for unit in _active() if not unit.endswith(".slice")]
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
        _systemctl("stop", *self._runs, POSTGRESQL)
        for path, found in _walk():
            self._keep(path, found)
        self._start()

    def restore(self) -> None:
        """Makes the machine what it was."""
        _systemctl("stop", *OURS, POSTGRESQL)
        now = dict(_walk())
        for path in sorted(now.keys() - self._found.keys(), reverse=True):
            _remove(path)
        for path, found in sorted(self._found.items()):
            there = now.get(path)
            if there is None or _identity(there) != found:
                self._put_back(path, there)
        _systemctl("daemon-reload")
        _systemctl("reset-failed", *OURS)
        self._start()

    def _start(self) -> None:
        _systemctl("start", "postgresql.service", *self._runs)

    def _copy(self, path: str) -> Path:
        return self._place / path.lstrip("/")

    def _keep(self, path: str, found: os.stat_result) -> None:
        copy = self._copy(path)
        copy.parent.mkdir(parents=True, exist_ok=True)
        if stat.S_ISDIR(found.st_mode):
            copy.mkdir(exist_ok=True)
        _duplicate(path, copy, found)
        self._found[path] = _identity(os.lstat(path))

    def _put_back(self, path: str, there: os.stat_result | None) -> None:
        copy = self._copy(path)
        wanted = copy.lstat()
        if there is not None and not (stat.S_ISDIR(there.st_mode) and stat.S_ISDIR(wanted.st_mode)):
            _remove(path)
        if stat.S_ISDIR(wanted.st_mode):
            Path(path).mkdir(exist_ok=True)
        _duplicate(str(copy), Path(path), wanted)
        self._found[path] = _identity(Path(path).lstat())


def _duplicate(source: str, target: Path, found: os.stat_result) -> None:
    """Contents, owner, mode and times; a directory is there already."""
    if stat.S_ISREG(found.st_mode) and (RELEASES in f"{source}{target}" or source.endswith(".gguf")):
        os.link(source, target)  # nobody writes into these, and they are many, or large
        return
    if not stat.S_ISDIR(found.st_mode):
        shutil.copy2(source, target, follow_symlinks=False)
    os.chown(target, found.st_uid, found.st_gid, follow_symlinks=False)
    if not stat.S_ISLNK(found.st_mode):
        target.chmod(stat.S_IMODE(found.st_mode))
    os.utime(target, ns=(found.st_atime_ns, found.st_mtime_ns), follow_symlinks=False)


def _identity(found: os.stat_result) -> tuple[int, ...]:
    """The same as long as nobody touches it; a directory's entries stand for themselves."""
    if stat.S_ISDIR(found.st_mode):
        return (found.st_mode, found.st_uid, found.st_gid)
    return (found.st_mode, found.st_ino, found.st_ctime_ns)


def _remove(path: str) -> None:
    if os.path.isdir(path) and not os.path.islink(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        Path(path).unlink(missing_ok=True)


def _walk() -> Iterator[tuple[str, os.stat_result]]:
    """Every directory, file and link, the directory first; no sockets."""
    waiting = [tree for tree in TREES if os.path.isdir(tree)]
    while waiting:
        for entry in os.scandir(waiting.pop()):
            kept = entry.path.startswith(KEPT)
            if (LEFT_OUT.fullmatch(entry.path) and not kept) or entry.path.startswith("/var/log/"):
                continue
            found = entry.stat(follow_symlinks=False)
            if stat.S_IFMT(found.st_mode) not in (stat.S_IFDIR, stat.S_IFREG, stat.S_IFLNK):
                continue
            yield entry.path, found
            if stat.S_ISDIR(found.st_mode):
                waiting.append(entry.path)


def _active() -> list[str]:
    listed = subprocess.run(
        ["systemctl", "list-units", "--plain", "--no-legend", "--state=active,activating", *OURS],
        capture_output=True,
        text=True,
        check=True,
    )
    return [line.split()[0] for line in listed.stdout.splitlines()]


def _systemctl(*words: str) -> None:
    done = subprocess.run(["systemctl", *words], capture_output=True, text=True, check=False)
    # a pattern that fits no unit is no failure
    if done.returncode and "not loaded" not in done.stderr:
        raise SystemExit(f"cannot go back: systemctl {' '.join(words)}: {done.stderr}")
