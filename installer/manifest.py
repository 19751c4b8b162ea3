"""What we made on this host: files with their sha256, links, users, database; what the services run with."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmsvc import atomic, paths
from llmsvc.errors import Error

_ALL = {
    "users": [paths.PROXY_USER, paths.BACKEND_USER],
    "groups": [paths.PROXY_USER, paths.BACKEND_USER, paths.ADMIN_GROUP],
    "role": paths.PROXY_USER,
    "database": "llmsvc",
}
"""What a release made whose manifest does not tell yet."""


class Manifest:
    """/var/lib/llmsvc/manifest.json.

    :ivar written: path to sha256 of what we wrote there
    :ivar links: paths of our symbolic links
    :ivar directories: which were made for these, and go once they are empty
    :ivar made: what else we made: `users`, `groups`, `role`, `database`; absent where it was there before us
    :ivar release: the environment that the services were last started with
    :ivar config: sha256 of the settings that they were last started with
    :ivar source: the checkout that it was installed from
    """

    def __init__(self, file: Path | None = None) -> None:
        self.file = file or paths.MANIFEST
        self.written: dict[str, str] = {}
        self.links: list[str] = []
        self.directories: list[str] = []
        self.made: dict[str, Any] = {}
        self.release = ""
        self.config = ""
        self.source = ""
        if self.file.exists():
            try:
                stored = json.loads(self.file.read_text(encoding="utf-8"))
                self.written = dict(stored["files"])
                self.release = str(stored["release"])
                self.links = list(stored.get("links", ()))
                self.directories = list(stored.get("directories", ()))
                self.made = dict(stored.get("made", _ALL))
                self.config = str(stored.get("config", ""))
                self.source = str(stored.get("source", ""))
            except (ValueError, KeyError, TypeError):
                raise Error(
                    f"{self.file} is damaged",
                    hint="move it away; files that differ from ours are then kept as yours",
                ) from None

    def edited(self, path: Path) -> bool:
        """Whether somebody changed a file of ours since we wrote it."""
        try:
            return hashlib.sha256(path.read_bytes()).hexdigest() != self.written.get(str(path))
        except FileNotFoundError:
            return False

    def record(self, path: Path, sha256: str) -> None:
        """Notes that `path` now holds our text; saved at once, so that nothing of a killed run is lost."""
        self.written[str(path)] = sha256
        self.save()

    def record_link(self, path: Path) -> None:
        """Notes that `path` is a link of ours."""
        if str(path) not in self.links:
            self.links.append(str(path))
            self.save()

    def record_directories(self, made: Sequence[str]) -> None:
        """Notes that we made these."""
        if new := [path for path in made if path not in self.directories]:
            self.directories += new
            self.save()

    def forget(self, path: Path) -> None:
        """Notes that `path` is none of ours any more."""
        self.written.pop(str(path), None)
        self.save()

    def save(self) -> None:
        """Writes the manifest."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        stored = {
            "release": self.release,
            "config": self.config,
            "source": self.source,
            "files": self.written,
            "links": sorted(self.links),
            "directories": sorted(self.directories),
            "made": self.made,
        }
        atomic.write(self.file, json.dumps(stored, indent=1, sort_keys=True) + "\n", 0o644)
