"""Runs `llmsvc` with faults, one after the other, and tells what each left behind.

Runs in a machine, with the Python of a release. The task comes as JSON:

- `command`: the arguments of `llmsvc`;
- `installed`: whether the services run before;
- `faults`: each [KIND, POINT, PART], or a number N for every Nth there is (see faults.py); the fault comes at
  the PART (0 to 1) of all times that the POINT is passed;
- `skip`: as many of them at first;
- `kinds`: those of an uninstallation, or all.

What is broken is mended after each fault, and what was killed put back, as the next run does at first. Where
the machine then is not as before, the next run must complete, and leave what it leaves where nothing fails.
The answer is JSON, a line a fault.

Putting back, and an uninstallation, go on where they ended: a fault comes at their first step (or the Nth,
for `faults` N), and is mended; the next run does that step, and the fault comes at the one after it, and so
on to the last. At the end all must be as before, or as without a fault.
"""

from __future__ import annotations

import difflib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import snapshot
from checkpoint import Checkpoint
from faults import ALL, Counter

from installer import apply, plan, undo  # noqa: F401 - once, not in every child
from llmsvc.cli.main import main

run = subprocess.run
STEPS = Path("/var/tmp/faults/steps")
BACK = ("undo", "undo-call")
LASTING = ("no-room-for-ever", "read-only", "no-database")
"""Faults that meet all that follows."""
CHECKPOINT = Path("/var/tmp/faults/checkpoint")
VARYING = re.compile(
    r"(?<=^/etc/llmsvc/credentials/)(\S+ .*) \w+$|(?<=\.sha256 )(.*) \w+$"
    r"|(?<=\|)(\d{4}-\d\d-\d\d .*|sk-llm-\w+)$"
)
"""What is another one in each installation: secrets, beginnings of keys, and when something was done."""


def child(do: Callable[[], int]) -> tuple[int, str]:
    """Runs it in a process of its own; its status (negative: the signal that ended it) and what it said."""
    with tempfile.TemporaryFile("w+") as out:
        sys.stdout.flush()  # or the child says it too
        pid = os.fork()
        if not pid:
            os.dup2(out.fileno(), 1)
            os.dup2(out.fileno(), 2)
            status = 99
            try:
                status = do()
            except SystemExit as end:
                status = int(end.code or 0)
            except BaseException:
                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(status)
        _, ended = os.waitpid(pid, 0)
        out.seek(0)
        return os.waitstatus_to_exitcode(ended), out.read()


def once(
    command: list[str],
    kind: str,
    point: str,
    number: int,
    do_it: Callable[[list[str]], int] = main,
    steps: Path | None = None,
) -> tuple[int, str, dict[str, list[str]]]:
    """One run with one fault; what was passed at each point, if it came to its end."""
    counter = Counter(kind, point, number, steps)

    def do() -> int:
        counter.arm()
        status = do_it(command)
        print("passed", json.dumps(counter.passed))
        return status

    status, said = child(do)
    passed = said.rpartition("\npassed ")[2]
    return status, said, json.loads(passed) if passed.startswith("{") else {}


def recover(_command: Sequence[str] = ()) -> int:
    """What the next run does before all else."""
    undo.recover(print)
    return 0


def mend() -> tuple[int, str]:
    """What was broken works again, and what was killed is put back."""
    repair()
    return child(recover) if undo.Undo().pending else (0, "")


def repair() -> None:
    """What was broken works again."""
    # os.path.ismount() knows no bind mounts
    while run(["mountpoint", "-q", "/etc"], check=False).returncode == 0:
        run(["umount", "/etc"], check=True)
    run(["systemctl", "unmask", "-q", "--runtime", "postgresql.service"], check=True)
    # else it may have been started too often of late
    run(["systemctl", "reset-failed", "postgresql*.service"], check=True)
    run(["systemctl", "start", "postgresql"], check=True)


def chosen(
    faults: list[tuple[str, str, float]] | int, passed: dict[str, list[str]], skip: int = 0
) -> list[tuple[str, str, int]]:
    """The faults with the number at which each comes."""
    if not isinstance(faults, int):
        return [(kind, point, max(1, round(part * len(passed[point])))) for kind, point, part in faults]
    found = []
    for point in ("line", "call"):
        kinds = ALL[point]
        for n, what in enumerate(passed[point], 1):
            again = point == "line" and passed[point][max(0, n - 3) : n - 1] == [what] * 2
            found += [(kind, point, n) for kind in ([kinds[n % len(kinds)]] if again else kinds)]
    return found[skip::faults]


def seen(*, installed: bool, expected: list[str] | None = None) -> list[str]:
    """The machine as it stays: what services do for a moment is over.

    :param expected: it is at rest if it is so
    """
    found = snapshot.snapshot(installed=installed)
    for _ in range(20):
        if found == expected:
            break
        before, found = found, snapshot.snapshot(installed=installed)
        if found == before:
            break
        time.sleep(0.5)
    return found


def differences(before: list[str], now: list[str]) -> list[str]:
    found = difflib.unified_diff(before, now, lineterm="", n=0)
    return [line for line in found if not line.startswith(("---", "+++", "@@"))][:30]


def lasting(lines: list[str]) -> list[str]:
    """Without what is another one in each installation."""
    return [VARYING.sub("", line) for line in lines]


def while_putting_back(
    command: list[str], kind: str, point: str, numbers: range
) -> Iterator[tuple[int, int, str]]:
    """Interrupts the command at its end, and has a fault come at each of the numbers while it is put back: in
    the command itself, then in those who go on with that.

    :returns: a number, and the status and words of whom the fault came to
    """
    for number in numbers:
        repair()
        again = undo.Undo().pending
        status, said, _ = once(command, kind, point, number, recover if again else main)
        yield number, status, said
        if not undo.Undo().pending and kind in LASTING:
            break  # the rest does without what is broken
    mend()


def try_all(task: dict[str, Any]) -> None:
    """Each fault of the task, the answer to standard output."""
    command, installed = task["command"], task["installed"]
    checkpoint = Checkpoint(CHECKPOINT)
    before = seen(installed=installed)
    status, said, passed = once(command, "none", "undo", 0)
    first = {"fault": "interrupted at its end", "status": status, "said": said[-3000:]}
    first["of"] = len(chosen(1, passed)) + sum(len(ALL[point] * len(passed[point])) for point in BACK)
    first["passed"] = {point: len(what) for point, what in passed.items()}
    first["differs"] = differences(before, seen(installed=installed))
    print(json.dumps(first), flush=True)
    once(command, "none", "line", 0)
    wanted = lasting(seen(installed=True))
    checkpoint.restore()
    for kind, point, number in chosen(task["faults"], passed, task["skip"]):
        begin = time.monotonic()
        status, said, _ = once(command, kind, point, number)
        recovered, words = mend()
        # a program that goes on may not have done its work yet
        expected = before if kind != "program-outlives" else None
        differs = differences(before, seen(installed=installed, expected=expected))
        answer = {"fault": f"{kind} at {point} {number}", "status": status, "said": said[-3000:]}
        answer |= {"recovered": recovered, "words": words[-2000:], "differs": differs, "completed": None}
        if differs:
            if status == 0:  # nothing of it stood in the fault's way
                answer["completed"] = 0
            else:
                answer["completed"], answer["words"] = child(lambda: main(command))
            answer["lacks"] = differences(wanted, lasting(seen(installed=True)))
            checkpoint.restore()
            answer["back"] = differences(before, seen(installed=installed, expected=before))
        answer["seconds"] = round(time.monotonic() - begin, 2)
        print(json.dumps(answer), flush=True)
    if isinstance(task["faults"], int):
        for point in BACK:
            numbers = range(1 + task["skip"], len(passed[point]) + 1, task["faults"])
            for kind in ALL[point]:
                begin = time.monotonic()
                came = list(while_putting_back(command, kind, point, numbers))
                at = ", ".join(str(number) for number, _, _ in came)
                answer = {
                    "fault": f"{kind} at {point} {at}, putting back",
                    "faults": len(came),
                    "status": came[0][1],
                    "said": "".join(said[-700:] for _, _, said in came),
                    "recovered": int(undo.Undo().pending),
                    "differs": differences(before, seen(installed=installed)),
                    "seconds": round(time.monotonic() - begin, 2),
                }
                print(json.dumps(answer), flush=True)
                if answer["differs"]:
                    checkpoint.restore()


def take_away(task: dict[str, Any]) -> None:
    """Each kind of fault at every step of an uninstallation, or at every Nth."""
    command, every = task["command"], task["faults"]
    checkpoint = Checkpoint(CHECKPOINT)
    once(command, "none", "line", 0)
    wanted = seen(installed=False)
    for kind in task["kinds"] or ALL["step"]:
        begin = time.monotonic()
        checkpoint.restore()
        said, status = "", -1
        had: list[str] = []
        before: list[str] | None = None
        STEPS.write_text("", encoding="utf-8")
        while status != 0 and had != before:
            status, words, _ = once(command, kind, "step", every, steps=STEPS)
            said += words[-500:]
            mend()
            before, had = had, STEPS.read_text(encoding="utf-8").splitlines()
        answer = {
            "fault": f"{kind} at {len(had)} steps of uninstalling",
            "faults": len(had),
            "status": status,
            "said": said,
            "differs": differences(wanted, seen(installed=False)),
            "seconds": round(time.monotonic() - begin, 2),
        }
        print(json.dumps(answer), flush=True)
    checkpoint.restore()


if __name__ == "__main__":
    task = json.load(sys.stdin)
    (take_away if task["command"][0] == "uninstall" else try_all)(task)
