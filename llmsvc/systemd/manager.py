"""Asks systemd for the state of our units and changes it, by systemctl: the same as an admin would type."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path

from llmsvc import paths
from llmsvc.errors import CanceledError, ConflictError, DeniedError, Error, NotFoundError, UnavailableError
from llmsvc.process import run

# a path unit has systemd read a new model's file at once
_KNOWN_SECONDS = 5.0

PROXY = "auth-proxy.service"
SOCKET = "auth-proxy.socket"
SERVER_SOCKET = "llama-server.socket"
"""Where clients connect in single-key mode."""
SLICE = "llmsvc-backend.slice"
_ENTERED = {
    "active": "ActiveEnterTimestampMonotonic",
    "activating": "InactiveExitTimestampMonotonic",
    "deactivating": "ActiveExitTimestampMonotonic",
    "inactive": "InactiveEnterTimestampMonotonic",
    "failed": "InactiveEnterTimestampMonotonic",
}
"""The property that says when a unit got into a state."""
_PROPERTIES = ",".join(
    (
        "Id,LoadState,ActiveState,SubState,Result,StatusText,ExecMainStatus,MainPID",
        *_ENTERED.values(),
    )
)


def unit(name: str) -> str:
    """The unit of model `name`."""
    return f"llama-server@{name}.service"


@dataclasses.dataclass(frozen=True)
class State:
    """What systemd knows of a unit; the values are systemctl's own words."""

    unit: str
    load: str
    active: str
    """active, reloading, inactive, failed, activating or deactivating."""
    sub: str
    result: str
    """success, or why it failed: exit-code, signal, timeout, watchdog, start-limit-hit."""
    text: str
    """The service's own STATUS= line."""
    since: float | None
    """When it got into this state, seconds since the epoch; None where it never had another one."""
    exit_status: int
    pid: int
    """Its main process; 0 where there is none."""


class StartError(Error):
    """A model did not start. `lines` are the last journal lines of the attempt."""

    def __init__(self, name: str, reason: str, lines: list[str]) -> None:
        super().__init__(
            f"{name} did not start: {reason}", hint=f"journalctl -u {unit(name)} -n 30 tells more"
        )
        self.lines = lines


def _systemctl(*arguments: str, check: bool = True) -> str:
    done = run(["systemctl", "--no-pager", *arguments], check=False)
    if check and done.returncode:
        # a warning, as of a unit that changed on disk, is not why it failed
        said = [line for line in done.stderr.strip().splitlines() if not line.startswith("Warning: ")]
        message = (said or [f"exit status {done.returncode}"])[0]
        if "uthentication" in message or "ccess denied" in message:
            raise DeniedError(
                f"systemctl {' '.join(arguments)}: {message}",
                hint=f"use sudo, or become a member of the group {paths.ADMIN_GROUP}",
            )
        if "not been booted with systemd" in done.stderr or "connect to bus" in done.stderr:
            raise UnavailableError(
                "systemd does not run here", hint="packaging/sandbox gives a machine where it does"
            )
        raise Error(f"systemctl {' '.join(arguments)}: {message}")
    return done.stdout


def state(unit_name: str) -> State:
    """The state of one unit."""
    return states([unit_name])[0]


def states(units: list[str]) -> list[State]:
    """The states of several units, in one call."""
    if not units:
        return []
    blocks = _systemctl("show", "-p", _PROPERTIES, *units).strip().split("\n\n")
    found = []
    for block in blocks:
        values = dict(line.partition("=")[::2] for line in block.splitlines())
        found.append(
            State(
                unit=values.get("Id", ""),
                load=values.get("LoadState", ""),
                active=values.get("ActiveState", ""),
                sub=values.get("SubState", ""),
                result=values.get("Result", ""),
                text=values.get("StatusText", ""),
                since=_epoch(values.get(_ENTERED.get(values.get("ActiveState", ""), ""), "")),
                exit_status=int(values.get("ExecMainStatus") or 0),
                pid=int(values.get("MainPID") or 0),
            )
        )
    return found


def _epoch(microseconds: str) -> float | None:
    """Seconds since the epoch of a CLOCK_MONOTONIC stamp; systemd's other stamps name a time zone."""
    if microseconds in ("", "0"):
        return None
    return round(time.time() - time.monotonic() + int(microseconds) / 1e6, 1)


def memory_limits(units: list[str]) -> dict[str, int]:
    """MemoryMax= of those units that have one, bytes."""
    blocks = _systemctl("show", "-p", "Id,MemoryMax", *units).strip().split("\n\n")
    found = [dict(line.partition("=")[::2] for line in block.splitlines()) for block in blocks]
    return {v["Id"]: int(v["MemoryMax"]) for v in found if v.get("MemoryMax", "").isdigit()}


def instances() -> list[State]:
    """Every llama-server@ instance that is not plainly inactive: running, starting, stopping or failed."""
    listing = _systemctl("list-units", "--all", "--plain", "--no-legend", "llama-server@*.service")
    names = [line.split()[0] for line in listing.splitlines() if line.strip()]
    return [s for s in states(names) if s.active != "inactive"]


def jobs() -> set[str]:
    """The kinds of jobs for instances that are queued or at work: start, stop, restart."""
    listing = _systemctl("list-jobs", "--plain", "--no-legend", "llama-server@*.service")
    return {line.split()[2] for line in listing.splitlines() if line.strip()}


def failed_requirements(unit_name: str) -> list[str]:
    """The units that a unit requires, such as mounts, and that failed."""
    required = _systemctl("show", "-P", "Requires", unit_name).split()
    return [state.unit for state in states(required) if state.active == "failed"]


def offer(name: str) -> bool:
    """Queues the start of a model unless that displaced a command that is queued already; does not wait.

    :returns: whether systemd took it
    """
    if not known(name):
        daemon_reload()
    # without the generated drop-in it would be refused later, when nobody looks
    if not known(name):
        return False
    start = ["systemctl", "start", "--no-block", "--job-mode=fail", unit(name)]
    if run(start, check=False).returncode:
        return False
    # that mode leaves out the stop of a model that declares the conflict itself: two would run. In this
    # order, for a start that is done meanwhile has left a model that runs.
    if queued_start(but=name) or running(but=name):
        stop(name)
        return False
    return True


def alert(kind: str) -> None:
    """Starts llmsvc-alert@KIND.service, and does not wait for it."""
    _systemctl("start", "--no-block", f"llmsvc-alert@{kind}.service", check=False)


def running(*, but: str | None = None) -> str | None:
    """A model that is READY or on its way, other than `but`."""
    for state in instances():
        name = instance_name(state.unit)
        if name != but and state.active in ("active", "reloading", "activating"):
            return name
    return None


def queued_start(*, but: str | None = None) -> str | None:
    """The model, other than `but`, whose start is queued or at work."""
    for line in _systemctl("list-jobs", "--plain", "--no-legend", "llama-server@*.service").splitlines():
        _job, unit_name, kind, *_ = line.split()
        if kind in ("start", "restart") and instance_name(unit_name) != but:
            return instance_name(unit_name)
    return None


def current() -> str | None:
    """The model that a command without a name means: whose start is queued, or that runs, loads or stops."""
    ending = (instance_name(state.unit) for state in instances() if state.active == "deactivating")
    return queued_start() or running() or next(ending, None)


def instance_name(unit_name: str) -> str:
    """The model's name of an instance's unit."""
    return unit_name.removeprefix("llama-server@").removesuffix(".service")


def active_model() -> str | None:
    """The model that is READY now, or None."""
    for instance in instances():
        if instance.active in ("active", "reloading"):
            return instance_name(instance.unit)
    return None


def daemon_reload() -> None:
    """Lets systemd read its units anew, and run our generator."""
    _systemctl("daemon-reload")


def reload_where_booted() -> None:
    """The same, where systemd runs at all (sd_booted(3))."""
    if Path("/run/systemd/system").is_dir():
        daemon_reload()


def known(name: str) -> bool:
    """Whether the generator has written the exclusion of this model, without which it would be refused."""
    # not by looking at the file: a daemon-reload takes it away and brings it back
    return "50-llmsvc-exclusive.conf" in _systemctl("show", "-P", "DropInPaths", unit(name))


def switch(name: str) -> None:
    """Starts model `name`, which stops the one that runs; returns once it answers.

    :raises NotFoundError: no such model
    :raises StartError: it did not start; the last good model is on its way back
    """
    if not known(name):
        if not paths.MODELS_D.joinpath(f"{name}.env").exists():
            raise NotFoundError(f"no model named {name}", hint="llmsvc model list shows what is there")
        try:
            daemon_reload()
        except DeniedError:
            _await_known(name)  # llmsvc-models.path has it done for members of llmsvc-admin
    _act("start", name)


def _await_known(name: str) -> None:
    deadline = time.monotonic() + _KNOWN_SECONDS
    while not known(name) and time.monotonic() < deadline:
        time.sleep(0.1)


def demand(name: str, running: str | None) -> None:
    """Starts model `name` because a request asks for it; an operator's command comes first.

    :param running: the model that runs now, as far as the caller knows
    :raises ConflictError: another command is at work, or something else runs; nothing was done
    :raises CanceledError: another command took the place of this one
    :raises StartError: it did not start; the last good model is on its way back
    """
    _await_known(name)
    # systemd has no way to say this: --job-mode=fail drops the stop of a model that declares the conflict,
    # and two would run
    if jobs() or active_model() != running:
        raise ConflictError(f"{name} is not started for a request: another command is at work")
    _act("start", name)


def stop(name: str) -> None:
    """Stops model `name`; running requests finish first, within the drain time."""
    _systemctl("stop", unit(name))


def restart(name: str) -> None:
    """Restarts model `name`; returns once it answers. Raises as switch()."""
    _act("restart", name)


def _act(verb: str, name: str) -> None:
    begin = time.time()
    try:
        _systemctl(verb, unit(name))
    except (DeniedError, UnavailableError):
        raise
    except Error as error:
        # of a model that failed, units/instance-hook itself cancels the start, so that it is not restarted
        if error.message.endswith("canceled.") and state(unit(name)).result == "success":
            raise CanceledError(
                f"another command came while {name} started", hint="see 'llmsvc status'"
            ) from None
        lines = [entry["MESSAGE"] for entry in journal(unit(name), begin, 6, about=True)]
        errors = [entry["MESSAGE"] for entry in journal(unit(name), begin, 3)]
        # not everybody who may start a model may read the journal
        told = state(unit(name)).text
        told = told.removeprefix("Failed: ") if told.startswith("Failed: ") else error.message
        reason = (errors or [told])[-1].removeprefix(f"{name}: ")
        raise StartError(name, reason, lines[-10:]) from None


def journal(unit_name: str, since: float, priority: int, *, about: bool = False) -> Iterator[dict[str, str]]:
    """The journal entries of a unit's own processes, oldest first.

    :param since: seconds since the epoch
    :param priority: syslog priority, this one and graver
    :param about: what systemd says of the unit too
    """
    output = run(
        [
            "journalctl", "--no-pager", "-q", "-o", "json", "--output-fields=MESSAGE,PRIORITY",
            f"--since=@{since:.3f}", f"--priority={priority}",
            f"--unit={unit_name}" if about else f"_SYSTEMD_UNIT={unit_name}",
        ],
        check=False,
    ).stdout  # fmt: skip
    for line in output.splitlines():
        entry = json.loads(line)
        if isinstance(entry.get("MESSAGE"), str):
            yield entry
