"""Times at which a model is switched to: a timer of systemd's for each model that has some.

llmsvc-schedule@NAME.timer is written here; what it starts, llmsvc-schedule@NAME.service, comes with the
installation and runs `llmsvc start NAME`, so that the model is checked before the running one is stopped.
"""

from __future__ import annotations

import dataclasses
import re

from llmsvc import atomic, paths
from llmsvc.errors import NotFoundError, UsageError
from llmsvc.process import ProcessError, run

_TIMER = """\
# Written by `llmsvc model schedule`, which adds, lists and removes times.
[Unit]
Description=Times at which {name} becomes the running model
Documentation=man:llmsvc(1)

[Timer]
{times}
# The next time counts from now, and not from one that was missed while the machine was off.
Persistent=no
AccuracySec=1s

[Install]
WantedBy=timers.target
"""
_TIMES = re.compile(r"^OnCalendar=(.+)$", re.MULTILINE)
_NORMALIZED = re.compile(r"Normalized form: (.+)$", re.MULTILINE)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The times of one model, as systemd.time(7) writes them.

    :ivar next: when it is switched to the next time, in systemd's words; None where no timer runs
    """

    name: str
    times: list[str]
    next: str | None = None


def timer(name: str) -> str:
    """The timer of a model."""
    return f"llmsvc-schedule@{name}.timer"


def check(time: str) -> str:
    """The time in systemd's own form.

    :raises UsageError: it is none
    """
    try:
        told = run(["systemd-analyze", "calendar", "--", time]).stdout
    except ProcessError as error:
        said = error.output.strip().splitlines() or ["systemd does not take it"]
        raise UsageError(
            f"{time[:80]!r} is no time: {said[0]}",
            hint="such as 'Mon..Fri 08:00', 'daily', '*-*-01 06:30'; systemd.time(7), CALENDAR EVENTS",
        ) from None
    found = _NORMALIZED.search(told)
    if not found or "\n" in time:
        raise UsageError(f"{time[:80]!r} is no time", hint="one at a time: --on-calendar may be repeated")
    return found[1].strip()


def every() -> list[Schedule]:
    """All schedules, by the model's name."""
    files = sorted(paths.UNITS.glob(timer("*")))
    return [get(file.name.removeprefix("llmsvc-schedule@").removesuffix(".timer")) for file in files]


def get(name: str) -> Schedule:
    """The schedule of one model; without times where it has none."""
    times = _times(name)
    return Schedule(name, times, _next(name) if times else None)


def add(name: str, times: list[str]) -> bool:
    """Adds times to a model's; returns whether one is new.

    :raises UsageError: one is no time; nothing is changed then
    """
    there = _times(name)
    wanted = [*there, *(one for one in dict.fromkeys(map(check, times)) if one not in there)]
    if wanted == there:
        return False
    _write(name, wanted)
    return True


def remove(name: str, times: list[str]) -> None:
    """Removes times of a model, or all if none is named.

    :raises NotFoundError: it has no schedule, or none of such a time
    """
    there = _times(name)
    gone = [check(one) for one in times] or there
    unknown = [one for one in gone if one not in there]
    if not there or unknown:
        raise NotFoundError(
            f"{name} has no schedule" + (f" at {unknown[0]}" if there else ""),
            hint="'llmsvc model schedule' lists them",
        )
    _write(name, [one for one in there if one not in gone])


def _times(name: str) -> list[str]:
    try:
        return _TIMES.findall((paths.UNITS / timer(name)).read_text(encoding="utf-8"))
    except FileNotFoundError:
        return []


def _write(name: str, times: list[str]) -> None:
    file = paths.UNITS / timer(name)
    if times:
        text = "\n".join(f"OnCalendar={one}" for one in times)
        atomic.write(file, _TIMER.format(name=name, times=text), 0o644)
        run(["systemctl", "daemon-reload"])
        run(["systemctl", "enable", "--quiet", file.name])
        # one that runs has to count anew
        run(["systemctl", "restart", file.name])
        return
    run(["systemctl", "disable", "--quiet", "--now", file.name])
    file.unlink(missing_ok=True)
    run(["systemctl", "daemon-reload"])


def _next(name: str) -> str | None:
    asked = ["systemctl", "show", "-P", "NextElapseUSecRealtime", timer(name)]
    told = run(asked, check=False).stdout.strip()
    return told if told not in ("", "n/a") else None
