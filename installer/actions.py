"""The kinds of steps of an installation. Each knows whether it is due; done twice is done once."""

from __future__ import annotations

import abc
import difflib
import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from installer.manifest import Manifest
from installer.undo import Undo
from llmsvc import atomic
from llmsvc.errors import Error


class Action(abc.ABC):
    """One step of the plan.

    :ivar kind: what it concerns: user, directory, file, link, secret, package, sql, model, unit or key
    :ivar title: what it does, as a line of progress: 'write /etc/systemd/system/auth-proxy.service'
    :ivar needs: actions without which nobody can tell whether this one is due; it is if one of them is
    """

    kind = "file"
    needs: tuple[Action, ...] = ()

    @property
    @abc.abstractmethod
    def title(self) -> str: ...

    @abc.abstractmethod
    def due(self) -> bool:
        """Whether the host differs from what is wanted. Changes nothing."""

    def due_after(self, others: Sequence[Action]) -> bool:
        """Whether it is due once these were done: where one of them is among its `needs`, it is."""
        return any(need in others for need in self.needs) or self.due()

    @abc.abstractmethod
    def apply(self, undo: Undo) -> None:
        """Makes the host as wanted; tells `undo` before each change. Only called when due."""

    def details(self) -> str:
        """What it does to the letter: a unified diff, SQL. Empty where the title says it all."""
        return ""


class Step(Action):
    """An action made of functions."""

    def __init__(
        self,
        kind: str,
        title: str | Callable[[], str],
        due: Callable[[], bool],
        do: Callable[[Undo], object],
        *,
        needs: Iterable[Action] = (),
        details: Callable[[], str] = lambda: "",
    ) -> None:
        self.kind = kind
        self._title = title
        self._due = due
        self._do = do
        self._details = details
        self.needs = tuple(needs)

    @property
    def title(self) -> str:
        # asked once, before it is done: afterwards it might be another one
        if callable(self._title):
            self._title = self._title()
        return self._title

    def due(self) -> bool:
        return self._due()

    def apply(self, undo: Undo) -> None:
        self._do(undo)

    def details(self) -> str:
        return self._details()


class WriteFile(Action):
    """Writes a file of ours: atomically, and never over what the admin made of it.

    A file that is neither as wanted nor as we last wrote it was edited: it stays, and the new text is laid
    beside it as NAME.llmsvc-new.
    """

    def __init__(self, path: Path, text: str, manifest: Manifest, *, mode: int) -> None:
        self.path = path
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
    def changes(self) -> bool:
        """Whether what is in force differs from what will be."""
        return not self.kept and self._current() != self._wanted()

    @property
    def beside(self) -> Path:
        """Where the new text goes if the admin's version stays."""
        return self.path.with_name(self.path.name + ".llmsvc-new")

    def due(self) -> bool:
        if self.kept:
            return _text(self.beside) != self.text
        if self._current() != self._wanted() or self.path.stat().st_mode & 0o7777 != self.mode:
            return True
        return self._manifest.written.get(str(self.path)) != self._wanted() or self.beside.exists()

    def apply(self, undo: Undo) -> None:
        self._manifest.record_directories(undo.make_directory(self.path.parent))
        undo.file(self.beside)
        if self.kept:
            atomic.write(self.beside, self.text, self.mode)
            return
        undo.file(self.path)
        if self._current() == self._wanted():
            # not written anew: systemd would take it for changed
            self.path.chmod(self.mode)
        else:
            atomic.write(self.path, self.text, self.mode)
        # what lay beside it is older than this
        self.beside.unlink(missing_ok=True)
        self._manifest.record(self.path, self._wanted())

    def details(self) -> str:
        return diff(self.beside if self.kept else self.path, self.text)

    def _wanted(self) -> str:
        return hashlib.sha256(self.text.encode()).hexdigest()

    def _current(self) -> str | None:
        try:
            return hashlib.sha256(self.path.read_bytes()).hexdigest()
        except FileNotFoundError:
            return None


class Link(Action):
    """Makes a symbolic link of ours, in one step, so that it always leads somewhere."""

    kind = "link"

    def __init__(self, path: Path, target: Path, manifest: Manifest) -> None:
        self.path = path
        self.target = target
        self._manifest = manifest

    @property
    def title(self) -> str:
        return f"link {self.path} to {self.target}"

    def due(self) -> bool:
        if not self.path.is_symlink() or self.path.readlink() != self.target:
            return True
        return str(self.path) not in self._manifest.links

    def apply(self, undo: Undo) -> None:
        if self.path.exists() and not self.path.is_symlink():
            raise Error(f"{self.path} is not a link of ours", hint="move it away and run this again")
        self._manifest.record_directories(undo.make_directory(self.path.parent))
        undo.file(self.path)
        temporary = self.path.with_name(f".{self.path.name}.new")
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(self.target)
        temporary.replace(self.path)
        self._manifest.record_link(self.path)


def diff(path: Path, text: str) -> str:
    """How a file changes, as a unified diff; of an absent one all lines are new."""
    before = _text(path)
    return "".join(
        difflib.unified_diff(
            (before or "").splitlines(keepends=True),
            text.splitlines(keepends=True),
            "/dev/null" if before is None else str(path),
            str(path),
        )
    )


def _text(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return None
