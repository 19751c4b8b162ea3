"""What we wrote to this host: sha256 of each file, and which release the services were last started with."""

from __future__ import annotations

import json
from pathlib import Path

from llmsvc import atomic, paths
from llmsvc.errors import Error


class Manifest:
    """/var/lib/llmsvc/manifest.json. `written` maps a path to the sha256 of what we wrote there."""

    def __init__(self, file: Path = paths.MANIFEST) -> None:
        self.file = file
        self.written: dict[str, str] = {}
        self.release = ""
        if file.exists():
            try:
                stored = json.loads(file.read_text(encoding="utf-8"))
                self.written = dict(stored["files"])
                self.release = str(stored["release"])
            except (ValueError, KeyError, TypeError):
                raise Error(
                    f"{file} is damaged",
                    hint="move it away; files that differ from ours are then kept as yours",
                ) from None

    def record(self, path: Path, sha256: str) -> None:
        """Notes that `path` now holds our text; saved at once, so that nothing of a killed run is lost."""
        self.written[str(path)] = sha256
        self.save()

    def save(self) -> None:
        """Writes the manifest."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        text = json.dumps({"release": self.release, "files": self.written}, indent=1, sort_keys=True) + "\n"
        atomic.write(self.file, text, 0o644)
