"""Runs `llmsvc` with one fault: python faults.py KIND NUMBER ARGUMENT...

The fault comes at the NUMBERth line of the undo journal, that is just before the change that it tells of, so
between any two changes of an installation. KIND is one of FAULTS; `count` has none, and prints at the end how
many lines there were. `recover` puts back what a killed installation left, as the next one does at first.
"""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from installer import undo
from llmsvc.cli.main import main

run = subprocess.run


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def interrupt() -> None:
    raise KeyboardInterrupt


def no_room() -> None:
    """Nothing can be written, by us or by what we start, until what was written is removed again."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))
    put_back = undo.Undo.put_back

    def with_room(self: undo.Undo, report: Callable[[str], None]) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        put_back(self, report)

    undo.Undo.put_back = with_room  # type: ignore[method-assign]


def read_only() -> None:
    run(["mount", "--bind", "/etc", "/etc"], check=True)
    run(["mount", "-o", "remount,bind,ro", "/etc"], check=True)


def no_database() -> None:
    run(["systemctl", "stop", "postgresql"], check=True)


def systemctl_once() -> None:
    _break_systemctl(1)


def systemctl_for_ever() -> None:
    _break_systemctl(10**9)


def _break_systemctl(times: int) -> None:
    left = [times]

    def broken(argv: list[str], **options: Any) -> Any:
        if argv[0] == "systemctl" and left[0]:
            left[0] -= 1
            argv = ["false"]
        return run(argv, **options)

    subprocess.run = broken


FAULTS: dict[str, Callable[[], None]] = {
    "kill": kill,
    "interrupt": interrupt,
    "no-room": no_room,
    "read-only": read_only,
    "no-database": no_database,
    "systemctl-once": systemctl_once,
    "systemctl-for-ever": systemctl_for_ever,
}


def arm(kind: str, number: int) -> list[int]:
    """Has the fault come at that line; the list holds how many lines there were."""
    lines = [0]
    note = undo.Undo._note

    def counting(self: undo.Undo, **entry: Any) -> None:
        note(self, **entry)
        lines[0] += 1
        if lines[0] == number and kind in FAULTS:
            FAULTS[kind]()

    undo.Undo._note = counting  # type: ignore[method-assign]
    return lines


if __name__ == "__main__":
    kind, number, *arguments = sys.argv[1:]
    if kind == "recover":
        undo.recover(print)
        sys.exit(0)
    lines = arm(kind, int(number))
    status = main(arguments)
    print(f"{lines[0]} lines", file=sys.stderr)
    sys.exit(status)
