"""Runs `llmsvc` with faults, one after the other, and tells what each left behind.

Runs in a machine, with the Python of a release. The task comes as JSON:

- `command`: the arguments of `llmsvc`;
- `installed`: whether the services run before;
- `back`: a script that makes the machine what it was before;
- `faults`: each [KIND, POINT, PART], or a number N for every Nth there is (see faults.py); the fault comes at
  the PART (0 to 1) of all times that the POINT is passed;
- `kinds`: those of an uninstallation, or all.

What is broken is mended after each fault, and what was killed put back, as the next run does at first. Where
the machine then is not as before, the next run must complete. The answer is JSON, a line a fault.

An uninstallation goes on where it ended: a fault comes at its first step (or the Nth, for `faults` N), and is
mended; that step is done, and so on to the last. At the end all must be as without a fault.
"""

from __future__ import annotations

import difflib
import json
import os
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import snapshot
from faults import ALL, Counter

from installer import apply, plan, undo  # noqa: F401 - once, not in every child
from llmsvc.cli.main import main

run = subprocess.run


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


def once(command: list[str], kind: str, point: str, number: int) -> tuple[int, str, dict[str, list[str]]]:
    """One run with one fault; what was passed at each point, if it came to its end."""
    counter = Counter(kind, point, number)

    def do() -> int:
        counter.arm()
        status = main(command)
        print("passed", json.dumps(counter.passed))
        return status

    status, said = child(do)
    passed = said.rpartition("\npassed ")[2]
    return status, said, json.loads(passed) if passed.startswith("{") else {}


def recover() -> int:
    undo.recover(print)
    return 0


def mend() -> tuple[int, str]:
    """What was broken works again, and the next run does this before all else."""
    # os.path.ismount() knows no bind mounts
    while run(["mountpoint", "-q", "/etc"], check=False).returncode == 0:
        run(["umount", "/etc"], check=True)
    run(["systemctl", "unmask", "-q", "--runtime", "postgresql.service"], check=True)
    run(["systemctl", "start", "postgresql"], check=True)
    return child(recover) if undo.Undo().pending else (0, "")


def chosen(
    faults: list[tuple[str, str, float]] | int, passed: dict[str, list[str]]
) -> list[tuple[str, str, int]]:
    """The faults with the number at which each comes."""
    if not isinstance(faults, int):
        return [(kind, point, max(1, round(part * len(passed[point])))) for kind, point, part in faults]
    found = []
    for point, kinds in ALL.items():
        for n, what in enumerate(passed[point] if point != "step" else (), 1):
            again = point in ("line", "undo") and passed[point][max(0, n - 3) : n - 1] == [what] * 2
            found += [(kind, point, n) for kind in ([kinds[n % len(kinds)]] if again else kinds)]
    return found[::faults]


def seen(*, installed: bool) -> list[str]:
    """The machine as it stays: what services do for a moment is over."""
    found = snapshot.snapshot(installed=installed)
    for _ in range(20):
        before, found = found, snapshot.snapshot(installed=installed)
        if found == before:
            break
        time.sleep(0.5)
    return found


def changes(before: list[str], installed: bool) -> list[str]:
    """How the machine differs from before."""
    now = seen(installed=installed)
    found = difflib.unified_diff(before, now, lineterm="", n=0)
    return [line for line in found if not line.startswith(("---", "+++", "@@"))][:30]


def go_back(script: str) -> None:
    """Makes the machine what it was before by a script."""
    done = run(["bash", "-euc", script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"cannot go back: {done.stdout}{done.stderr}")


def try_all(task: dict[str, Any]) -> None:
    """Each fault of the task, the answer to standard output."""
    command, installed = task["command"], task["installed"]
    go_back(task["back"])
    before = seen(installed=installed)
    status, said, passed = once(command, "none", "undo", 0)
    first = {"fault": "interrupted at its end", "status": status, "said": said[-3000:]}
    first["of"] = len(chosen(1, passed))
    print(json.dumps(first | {"differs": changes(before, installed)}), flush=True)
    for kind, point, number in chosen(task["faults"], passed):
        begin = time.monotonic()
        status, said, _ = once(command, kind, point, number)
        recovered, words = mend()
        differs = changes(before, installed)
        answer = {"fault": f"{kind} at {point} {number}", "status": status, "said": said[-3000:]}
        answer |= {"recovered": recovered, "words": words[-2000:], "differs": differs, "completed": None}
        answer["back"] = []
        if differs:
            answer["completed"], answer["words"] = child(lambda: main(command))
            go_back(task["back"])
            answer["back"] = changes(before, installed)
        answer["seconds"] = round(time.monotonic() - begin, 2)
        print(json.dumps(answer), flush=True)


def take_away(task: dict[str, Any]) -> None:
    """Each kind of fault at every step of an uninstallation, or at every Nth."""
    command, every = task["command"], task["faults"]
    go_back(task["back"])
    once(command, "none", "line", 0)
    wanted = seen(installed=False)
    for kind in task["kinds"] or ALL["step"]:
        go_back(task["back"])
        runs, said, status = 0, "", -1
        while status != 0 and runs < 500:
            status, words, _ = once(command, kind, "step", every)
            said += words[-500:]
            mend()
            if status != 0 and kind != "none":  # past the step at which it failed
                status, words, _ = once(command, "none", "step", 1)
            runs += 1
        answer = {
            "fault": f"{kind} at {runs} steps of uninstalling",
            "status": -1 if runs > 1 else 0,
            "said": said,
        }
        print(json.dumps(answer | {"differs": changes(wanted, installed=False)}), flush=True)


if __name__ == "__main__":
    task = json.load(sys.stdin)
    (take_away if task["command"][0] == "uninstall" else try_all)(task)
