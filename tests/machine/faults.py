"""The faults that an installation may meet, and the points between its steps at which they may come.

- `line`: a line of the undo journal, that is just before the change that it tells of;
- `call`: just before another program is run;
- `undo`, `undo-call`: the installation is interrupted before its last step, and now an entry is put back, or
  a program run for that;
- `step`: a step of an uninstallation, which is killed after it.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from installer import apply, putback, undo, uninstall

POINTS = ("line", "call", "undo", "undo-call", "step")
run = subprocess.run


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    os.kill(os.getpid(), signal.SIGINT)


def no_room() -> None:
    """Nothing can be written, by us or by what we start, until what was written is removed again."""
    no_room_for_ever()
    put_back = undo.Undo.put_back

    def with_room(self: undo.Undo, report: Callable[[str], None]) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        put_back(self, report)

    undo.Undo.put_back = with_room  # type: ignore[method-assign]


def no_room_for_ever() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    # what we start is told so, as on a full disk, and not killed by SIGXFSZ, which Python ignores
    subprocess.run = partial(run, restore_signals=False)


def read_only() -> None:
    run(["mount", "--bind", "/etc", "/etc"], check=True)
    run(["mount", "-o", "remount,bind,ro", "/etc"], check=True)


def no_database() -> None:
    run(["systemctl", "mask", "-q", "--runtime", "--now", "postgresql.service"], check=True)


def systemctl_once() -> None:
    _break("systemctl", 1)


def systemctl_for_ever() -> None:
    _break("systemctl", 10**9)


def program_fails() -> None:
    """The next one, whatever it is."""
    _break("", 1)


def program_outlives() -> None:
    """We are killed while the next program runs, which goes on."""

    def outlived(argv: list[str], **options: Any) -> Any:
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, env=options.get("env"), start_new_session=True)
        kill()

    subprocess.run = outlived


def _break(program: str, times: int) -> None:
    left = [times]

    def broken(argv: list[str], **options: Any) -> Any:
        if left[0] and program in ("", argv[0]):
            left[0] -= 1
            argv = ["false"]
        return run(argv, **options)

    subprocess.run = broken  # type: ignore[assignment]


FAULTS: dict[str, Callable[[], None]] = {
    "kill": kill,
    "interrupt": interrupt,
    "no-room": no_room,
    "no-room-for-ever": no_room_for_ever,
    "read-only": read_only,
    "no-database": no_database,
    "systemctl-once": systemctl_once,
    "systemctl-for-ever": systemctl_for_ever,
    "program-fails": program_fails,
    "program-outlives": program_outlives,
    "none": lambda: None,
}
ALL = {
    "line": (
        *("kill", "interrupt", "no-room", "no-room-for-ever"),
        *("read-only", "no-database", "systemctl-once", "systemctl-for-ever"),
    ),
    "call": ("program-fails", "program-outlives"),
    "undo": ("kill", "no-room-for-ever", "read-only", "no-database"),
    "undo-call": ("program-fails", "program-outlives"),
    "step": ("no-room-for-ever", "read-only", "no-database", "program-fails", "program-outlives", "none"),
}
"""The kinds of faults that make sense at each point. After another line of the same kind they take turns."""


class Counter:
    """What was passed at each point; what comes at one of them."""

    def __init__(self, kind: str, point: str, number: int, steps: Path | None = None) -> None:
        """:param steps: a file of the titles of steps that had their fault, which are not counted any more"""
        self._steps = steps
        self._had = steps.read_text(encoding="utf-8").splitlines() if steps else []
        self.passed: dict[str, list[str]] = {point: [] for point in POINTS}
        self._what = (kind, point, number)
        self._undoing = self._begun = False

    def arm(self) -> None:
        """Has the fault come."""
        make_plan = uninstall.plan
        note, put_back, one, ask = undo.Undo._note, undo.Undo.put_back, putback.put_back, apply.verify.ask

        def noted(this: undo.Undo, **entry: Any) -> None:
            note(this, **entry)
            self._begun = True
            self.passing("line", entry["kind"])

        def putting_back(this: undo.Undo, report: Callable[[str], None], *, again: bool = False) -> None:
            self._undoing = True
            put_back(this, report, again=again)

        def entry(directory: Path, entry: dict[str, Any]) -> None:
            self.passing("undo", entry["kind"])
            one(directory, entry)

        def asked(config: Any) -> str:
            if self._what[1].startswith("undo"):
                raise KeyboardInterrupt
            return ask(config)

        def called(argv: list[str], **options: Any) -> Any:
            if self._begun or self._undoing:
                self.passing("undo-call" if self._undoing else "call", str(len(self.passed["call"])))
            # what the fault may have put in our place
            return (run if subprocess.run is called else subprocess.run)(argv, **options)

        def planned(*, purge: bool) -> uninstall.Plan:
            made = make_plan(purge=purge)
            steps = [uninstall.Removal(step.title, partial(self.step, step)) for step in made.steps]
            return uninstall.Plan(steps, made.left)

        uninstall.plan = planned
        undo.Undo._note, undo.Undo.put_back = noted, putting_back  # type: ignore[method-assign]
        putback.put_back, apply.verify.ask = entry, asked
        subprocess.run = called

    def step(self, removal: uninstall.Removal) -> None:
        """One of an uninstallation; the one after that with the fault is not begun."""
        if self._steps and len(self.passed["step"]) == self._what[2]:
            kill()
        if self._steps and removal.title not in self._had:
            if len(self.passed["step"]) + 1 == self._what[2]:
                with self._steps.open("a", encoding="utf-8") as stream:
                    stream.write(f"{removal.title}\n")
            self.passing("step", removal.title)
        removal.do()

    def passing(self, point: str, what: str) -> None:
        self.passed[point].append(what)
        kind, where, number = self._what
        if (point, len(self.passed[point])) == (where, number):
            FAULTS[kind]()
