"""The kinds of steps of an installation. Each knows whether it is due; done twice is done once."""

from __future__ import annotations

import abc
import hashlib
from collections.abc import Callable
from pathlib import Path

from installer.manifest import Manifest
from llmsvc import atomic


class Action(abc.ABC):
    """One step of the plan."""

    @property
    @abc.abstractmethod
    def title(self) -> str:
        """What it does, as a line of progress: 'write /etc/systemd/system/auth-proxy.service'."""

    @abc.abstractmethod
    def due(self) -> bool:
        """Whether the host differs from what is wanted. Changes nothing."""

    @abc.abstractmethod
    def apply(self) -> None:
        """Makes the host as wanted. Only called when due."""


class Step(Action):
    """An action made of two functions."""

    def __init__(self, title: str, is_due: Callable[[], bool], do: Callable[[], object]) -> None:
        self._title = title
        self._is_due = is_due
        self._do = do

    @property
    def title(self) -> str:
        return self._title

    def due(self) -> bool:
        return self._is_due()

    def apply(self) -> None:
        self._do()


class WriteFile(Action):
    """Writes a file of ours: atomically, and never over what the admin made of it.

    A file that is neither as wanted nor as we last wrote it was edited: it stays, and the new text is laid
    beside it as NAME.llmsvc-new. `written` is called with the file's name whenever its text changed.
    """

    def __init__(
        self, path: Path, text: str, manifest: Manifest, *, mode: int, written: Callable[[str], None]
    ) -> None:
        self.path = path
        self._written = written
        self.text = text
        self.mode = mode
        self._manifest = manifest

    @property
    def title(self) -> str:
        return f"keep your {self.path}, write {self.beside.name}" if self.kept else f"write {self.path}"

    @property
    def kept(self) -> bool:
        """Whether the admin's own version stays."""
        current = self._current()
        return current not in (None, self._wanted(), self._manifest.written.get(str(self.path)))

    @property
    def beside(self) -> Path:
        """Where the new text goes if the admin's version stays."""
        return self.path.with_name(self.path.name + ".llmsvc-new")

    def due(self) -> bool:
        if self.kept:
            return not self.beside.exists() or self.beside.read_text(encoding="utf-8") != self.text
        if self._current() != self._wanted() or self.path.stat().st_mode & 0o7777 != self.mode:
            return True
        return self._manifest.written.get(str(self.path)) != self._wanted()

    def apply(self) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        if self.kept:
            atomic.write(self.beside, self.text, self.mode)
            return
        changed = self._current() != self._wanted()
        atomic.write(self.path, self.text, self.mode)
        self._manifest.record(self.path, self._wanted())
        if changed:
            self._written(self.path.name)

    def _wanted(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def _current(self) -> str | None:
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except FileNotFoundError:
            return None
