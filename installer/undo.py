"""The undo journal: what a running installation is about to change, on disk. Any end of it but success puts
the host back as it was; after a kill or a power cut the next run does.

/var/lib/llmsvc/undo holds `journal`, one JSON object a line, and copies of what was replaced. A line is on
the disk before the change that it tells of. Putting back goes through the lines from the last to the first;
each may be repeated, and may tell of a change that never happened.
"""

from __future__ import annotations

import contextlib
import grp
import json
import os
import pwd
import shutil
import signal
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from installer import putback, services
from llmsvc import paths, process
from llmsvc.database import provision
from llmsvc.errors import Error


class Undo:
    """The journal of one installation; see transaction()."""

    def __init__(self, directory: Path | None = None) -> None:
        self.directory = directory or paths.UNDO
        self._journal = self.directory / "journal"
        self._seen: set[Path] = set()
        self.new_database = False
        """Whether the database goes as a whole when this is put back."""

    @property
    def pending(self) -> bool:
        """Whether an installation began here and did not end."""
        return self._journal.exists()

    def begin(self) -> None:
        """Makes the journal, and notes what runs now."""
        self._seen.clear()
        before = services.snapshot()
        missing = [d for d in (self.directory, *self.directory.parents) if not d.exists()]
        try:
            for directory in reversed(missing):
                directory.mkdir(mode=0o700 if directory == self.directory else 0o755)
            self._note(kind="directories", paths=[str(d) for d in missing if d != self.directory])
            self._note(kind="services", before=before)
        except OSError:
            shutil.rmtree(self.directory, ignore_errors=True)
            with contextlib.suppress(OSError):
                putback.remove_empty([str(d) for d in missing])
            raise

    def file(self, path: Path) -> None:
        """Before a file or link is written, replaced or removed."""
        if path in self._seen:
            return
        if path.is_symlink():
            self._note(kind="file", path=str(path), link=str(path.readlink()))
        elif path.exists():
            copy = self.directory / f"{len(self._seen)}"
            shutil.copy2(path, copy)
            shutil.chown(copy, path.stat().st_uid, path.stat().st_gid)
            putback.sync(copy)
            self._note(kind="file", path=str(path), copy=copy.name)
        else:
            self._note(kind="file", path=str(path))
        self._seen.add(path)

    def make_directory(self, path: Path) -> list[str]:
        """Makes a directory, and those above it, where they are missing; returns those that were made."""
        missing = self.directories([path])
        path.mkdir(parents=True, exist_ok=True)
        return missing

    def directories(self, wanted: Sequence[Path]) -> list[str]:
        """Before directories, and those above them, are made. They go again only if they are empty.

        :returns: what is to be made, the deepest first
        """
        found = {str(d) for path in wanted for d in (path, *path.parents) if not d.exists()}
        missing = sorted(found, reverse=True)
        if missing:
            self._note(kind="directories", paths=missing)
        return missing

    def appearing(self, wanted: Sequence[Path]) -> None:
        """Before something is started that makes these by itself; what is there already stays."""
        missing = [str(path) for path in wanted if not path.exists()]
        if missing:
            self._note(kind="appearing", paths=missing)

    def model(self, directory: Path, *, keep: bool) -> None:
        """Before a model's file comes into the library.

        :param keep: what came whole stays: it took long, and the next run goes on with it
        """
        there = sorted(path.name for path in directory.iterdir()) if directory.is_dir() else []
        self._note(kind="model", directory=str(directory), there=there, keep=keep)

    def users(self, users: Sequence[str], groups: Sequence[str]) -> dict[str, list[str]]:
        """Before users and groups are made; what is there already stays. Returns what is to be made."""
        new = [name for name in users if not putback.known(pwd.getpwnam, name)]
        new_groups = [name for name in groups if not putback.known(grp.getgrnam, name)]
        self._note(kind="users", users=new, groups=new_groups)
        return {"users": new, "groups": new_groups}

    def role(self, place: provision.Place, name: str) -> None:
        """Before a role is made that is not there."""
        self._note(kind="role", host=place.host, port=place.port, name=name)

    def database(self, place: provision.Place, name: str) -> None:
        """Before a database is made that is not there."""
        self.new_database = True
        self._note(kind="database", host=place.host, port=place.port, name=name)

    def migration(self, backup: Path) -> None:
        """Before migrations; `backup` was made by database.dump and lies there until nobody needs it."""
        self._note(kind="migration", backup=str(backup))

    def enable(self, units: Sequence[str]) -> None:
        """Before units are enabled that are not, and whose files are not ours."""
        self._note(kind="enable", units=list(units))

    def start(self, units: Sequence[str]) -> None:
        """Before units are started or restarted; what runs already is not stopped when all is put back."""
        new = [name for name, unit in services.units(units).items() if not unit.active]
        if new:
            self._note(kind="start", units=new)

    def commit(self) -> None:
        """The installation is complete: nothing is put back any more."""
        self._journal.unlink()
        shutil.rmtree(self.directory)

    def put_back(self, report: Callable[[str], None], *, again: bool = False) -> None:
        """Makes the host as it was before begin().

        :param report: called with what is put back, in words
        :param again: another run tried, and what starts the services anew follows: one that does not run any
            more with what it had before is told, and no failure, or nothing could ever mend it
        :raises Error: some of it could not be; the journal stays, and the next run tries again
        """
        failures = []
        for entry in reversed(self._entries()):
            try:
                putback.put_back(self.directory, entry)
            except (Error, OSError) as error:
                report(f"could not be put back: {error}")
                if not (again and entry["kind"] == "services" and services.failed()):
                    failures.append(str(error))
        if failures:
            raise Error(
                f"not everything could be put back: {failures[0]}",
                hint="mend that and run 'llmsvc install' again: it puts back what is left, then starts anew",
            )
        made: list[str] = next(
            (entry["paths"] for entry in self._entries() if entry["kind"] == "directories"), []
        )
        self.commit()
        with contextlib.suppress(OSError):
            putback.remove_empty(made)

    def _note(self, **entry: Any) -> None:
        with self._journal.open("a", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o600)
            stream.write(json.dumps(entry) + "\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _entries(self) -> list[putback.Entry]:
        entries = []
        for line in self._journal.read_text(encoding="utf-8").splitlines():
            # one that was cut off is of a change that was never begun
            with contextlib.suppress(ValueError):
                entries.append(json.loads(line))
        return entries


@contextlib.contextmanager
def transaction(report: Callable[[str], None]) -> Iterator[Undo]:
    """What is changed within is put back at any end but an orderly one: an error, Ctrl-C, SIGTERM.

    :raises Error: the failure, saying that all is as it was, or what is not
    """
    undo = Undo()
    undo.begin()
    try:
        with _signals_as_ctrl_c():
            yield undo
    except BaseException as failure:
        # one that comes meanwhile is heard: we end anyway
        with contextlib.suppress(KeyboardInterrupt), process.undisturbed():
            report("putting back what was changed")
            try:
                undo.put_back(report)
            except Error as left:
                raise _after(failure, left.message, left.hint) from None
        if isinstance(failure, OSError):
            raise _after(failure, "this machine is as it was before", None) from None
        raise
    undo.commit()


def recover(report: Callable[[str], None]) -> bool:
    """Puts back what an installation left that was killed; whether there was one.

    :raises Error: not everything could be put back
    """
    undo = Undo()
    if not undo.pending:
        return False
    report("an installation before this one did not end: putting back what it changed")
    with process.undisturbed():
        undo.put_back(report, again=True)
    return True


def _after(failure: BaseException, what: str, hint: str | None) -> Error:
    if isinstance(failure, OSError):
        return Error(f"{failure.filename or 'installing'}: {failure.strerror}; {what}", hint=hint)
    return Error(f"{str(failure) or 'interrupted'}; {what}", hint=hint)


@contextlib.contextmanager
def _signals_as_ctrl_c() -> Iterator[None]:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, old in before.items():
            signal.signal(number, old)
