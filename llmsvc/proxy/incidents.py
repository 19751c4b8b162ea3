"""What the units' hooks tell of crashes and rollbacks: files in /run/llmsvc that everybody may read."""

from __future__ import annotations

import json
from pathlib import Path

# a crash is noted as systemd sees the process end, which may be a little before we do
_SLACK_SECONDS = 2.0


class Incidents:
    """The files below `directory`; what is missing or damaged there did not happen."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def crashes(self, model: str) -> list[float]:
        """When the backend of `model` ended without being asked to, Unix times, the oldest first."""
        times = []
        for line in _read(self._directory / "crashes" / model).splitlines():
            try:
                times.append(float(line.split()[0]))
            except (ValueError, IndexError):
                continue
        return times

    def crashed_since(self, model: str, since: float) -> bool:
        """Whether `model` crashed at about this Unix time or later."""
        return any(at >= since - _SLACK_SECONDS for at in self.crashes(model))

    def rolled_back_since(self, model: str, since: float) -> bool:
        """Whether systemd went back to `model`, after another failed, at about this Unix time or later."""
        try:
            last = json.loads(_read(self._directory / "rollback.json"))
            return bool(last["to"] == model and float(last["at"]) >= since - _SLACK_SECONDS)
        except (ValueError, KeyError, TypeError):
            return False


def _read(file: Path) -> str:
    try:
        return file.read_text("utf-8", "replace")
    except OSError:
        return ""
