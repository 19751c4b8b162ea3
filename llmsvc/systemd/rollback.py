"""Which model comes next after one failed: the work of llama-server-rollback@ and llmsvc-retry.

At first each other good model is tried once, the latest first. If none of them starts, the default model and
the latest good one are tried again after 10 s, 20 s, 40 s and so on, until one is READY (units/instance-hook)
or an operator stops it. What an operator asks for always comes first.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from llmsvc import atomic, config, paths
from llmsvc.process import run
from llmsvc.systemd import manager, notify
from llmsvc.systemd.journal import Journal

RETRY_UNIT = "llmsvc-retry.service"
_FIRST_DELAY = 10
_LONGEST_DELAY = 300
_CRASHES, _WITHIN = 5, 600
"""units/instance-hook gives a model up that crashed so often within so many seconds."""
_BUSY_WAIT = 5
"""Seconds between two looks whether an operator's command, which a retry must not displace, is done."""


@dataclasses.dataclass(frozen=True)
class Rollback:
    """/run/llmsvc/rollback.json: what was done about the last failure."""

    at: float
    """When, seconds since the epoch."""
    failed: str
    reason: str
    """One line, for people."""
    to: str | None
    """The model that is started instead, or will be at `retry_at`; None where there is none."""
    retry_at: float | None
    """When `to` will be tried, seconds since the epoch; None where nothing waits."""
    delay: int = 0
    """Seconds of the last wait for a retry; 0 before the first one."""


def last() -> Rollback | None:
    """What was done about the last failure since boot; None if there was none."""
    try:
        return Rollback(**json.loads(paths.ROLLBACK.read_text(encoding="utf-8")))
    except (FileNotFoundError, ValueError, TypeError):
        return None


def good_models() -> list[str]:
    """Models that once became READY and still exist, the latest first."""
    return [name for name in _lines(paths.GOOD_MODELS) if _exists(name)]


def await_end() -> None:
    """Returns once no rollback is at work; that takes a second, or as long as requests are finishing."""
    while at_work():
        time.sleep(0.1)


def at_work() -> bool:
    """Whether a model has failed and what comes next is still being decided."""
    units = "llama-server-rollback@*.service"
    states = run(["systemctl", "is-active", units], check=False).stdout.split()
    if not {"active", "activating", "deactivating"}.isdisjoint(states):
        return True
    return bool(run(["systemctl", "list-jobs", "--plain", "--no-legend", units], check=False).stdout.strip())


def roll_back(failed: str, default: str | None, journal: Journal) -> Rollback | None:
    """Queues the start of another model, or plans a retry, unless an operator's command made it fail.

    :param default: the model of the next boot
    :returns: what was done; None if nothing
    """
    with _alone():
        asked = paths.ASKED / failed
        if asked.exists():
            asked.unlink()
            journal.send(f"{failed} did not end cleanly when it was told to stop; nothing else to do")
            return None
        # where a mount failed, the model that ran may still be finishing its requests
        while (jobs := manager.jobs()) == {"stop"}:
            time.sleep(0.1)
        # in this order: a start that is done by now has left a model that runs
        if (other := manager.running()) or jobs:
            journal.send(f"{failed} failed; {other or 'another command'} comes first")
            return None
        before = last()
        # what we started ourselves and failed goes on from there; an operator's own start begins anew
        ours = before is not None and before.to == failed and before.retry_at is None
        if not ours or before is None or not paths.FAILED_MODELS.exists():
            before = None
        tried = {failed, *(_lines(paths.FAILED_MODELS) if before else [])}
        atomic.write(paths.FAILED_MODELS, "".join(f"{n}\n" for n in sorted(tried)), 0o644, sync=False)
        delay = before.delay if before else 0
        to = next((n for n in _candidates(default, delay) if n not in tried and manager.offer(n)), None)
        if to is None and manager.jobs():
            journal.send(f"{failed} failed; another command comes first")
            return None
        # looked up only now, for it takes a while
        done = Rollback(time.time(), failed, _reason(failed, journal), to, None, delay)
        if to is None:
            done = _plan(done, default)
        _save(done)
        # restart, for one that waits already has a time of its own; and until it is READY, for one that is
        # stopped before that does not give the plan up itself
        if done.retry_at and "canceled" in run(["systemctl", "restart", RETRY_UNIT], check=False).stderr:
            done = dataclasses.replace(done, to=None, retry_at=None)
            _save(done)
        _tell(done, journal)
        return done


def retry(default: Callable[[], str | None], journal: Journal) -> None:
    """Waits until a retry is due and queues it; returns once done, or at once where none is planned.

    SIGTERM ends it, and gives the plan up unless there is a new one by then.
    """
    plan = last()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    notify.ready("Waiting")
    try:
        while (plan := last()) and plan.retry_at and plan.to:
            when = time.strftime("%H:%M:%S", time.localtime(plan.retry_at))
            notify.status(f"Trying {plan.to} at {when}; 'systemctl stop {RETRY_UNIT}' ends it")
            # not longer than planned, whatever was done to the clock
            time.sleep(max(0.0, min(plan.retry_at - time.time(), plan.delay)))
            with _alone():
                if last() == plan and not manager.running() and _fire(plan, default(), journal):
                    return
            time.sleep(_BUSY_WAIT)
    except SystemExit:
        if plan and plan.retry_at and last() == plan:
            _save(dataclasses.replace(plan, to=None, retry_at=None))
            journal.send(f"{plan.to} is not tried again: a model was started, or somebody stopped one")
        raise


def _fire(plan: Rollback, default: str | None, journal: Journal) -> bool:
    """Queues the start of the first that systemd takes; returns whether there is nothing left to wait for."""
    atomic.write(paths.FAILED_MODELS, "", 0o644, sync=False)
    names = _candidates(default, plan.delay)
    if not names:
        _save(dataclasses.replace(plan, to=None, retry_at=None))
    for name in names:
        # before the start, which stops this unit
        _save(dataclasses.replace(plan, to=name, retry_at=None))
        journal.send(f"trying {name} again", fields={"LLM_MODEL": name})
        if manager.offer(name):
            return True
        if manager.jobs():
            _save(plan)
            return False
    if names:  # systemd takes none, as where they are masked
        later = _plan(dataclasses.replace(plan, at=time.time()), default)
        _save(dataclasses.replace(later, at=plan.at))
    return not names


def _candidates(default: str | None, delay: int) -> list[str]:
    """The models to try, in order. Once there were waits, the default comes first and few follow."""
    good = good_models()
    first = [default] if default and _exists(default) else []
    if delay:
        return list(dict.fromkeys([*first, *good]))[:2]
    return list(dict.fromkeys([name for name in [*good, *first] if not _given_up(name)]))


def _plan(done: Rollback, default: str | None) -> Rollback:
    """With a retry, if there is a model to try."""
    delay = min(2 * done.delay, _LONGEST_DELAY) or _FIRST_DELAY
    names = _candidates(default, delay)
    if not names:
        return done
    return dataclasses.replace(done, to=names[0], retry_at=done.at + delay, delay=delay)


def _tell(done: Rollback, journal: Journal) -> None:
    fields = {
        "LLM_MODEL": done.to,
        "LLM_FAILED_MODEL": done.failed,
        # shows it under `journalctl -u llama-server@NAME` too
        "OBJECT_SYSTEMD_UNIT": manager.unit(done.failed),
    }
    begin = f"{done.failed} failed: {done.reason}; "
    if done.to and not done.retry_at:
        journal.send(f"{begin}going back to {done.to}", priority=4, fields=fields)
        if not done.delay:
            manager.alert("rollback")
        return
    again = f"; {done.to} is tried again in {done.delay} s" if done.to else ""
    journal.send(f"{begin}no other model starts, none runs{again}", priority=3, fields=fields)
    if done.delay <= _FIRST_DELAY:
        manager.alert("no-model")


def _given_up(name: str) -> bool:
    """Whether it crashed too often lately."""
    stamps = [float(line.split()[0]) for line in _lines(paths.CRASHES / name)]
    return sum(stamp > time.time() - _WITHIN for stamp in stamps) >= _CRASHES


def _reason(failed: str, journal: Journal) -> str:
    """The last error that the failed model's unit logged; logged for it where it had not even begun."""
    state = manager.state(manager.unit(failed))
    if state.active != "failed" or state.since is None or time.time() - state.since > 60:
        needed = " and ".join(manager.failed_requirements(state.unit)) or "a unit"
        reason = f"it needs {needed}, which did not start"
        journal.send(f"{failed}: {reason}", priority=3, fields={"OBJECT_SYSTEMD_UNIT": state.unit})
        return reason
    lines = [entry["MESSAGE"] for entry in manager.journal(state.unit, state.since - 5, 3)]
    return lines[-1].removeprefix(f"{failed}: ") if lines else state.result


def _exists(name: str) -> bool:
    return config.valid_model_name(name) and (paths.MODELS_D / f"{name}.env").exists()


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []


def _save(rollback: Rollback) -> None:
    atomic.write(paths.ROLLBACK, json.dumps(dataclasses.asdict(rollback)) + "\n", 0o644, sync=False)


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Two failures at once are handled one after the other."""
    directory = os.open(paths.RUN, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(directory, fcntl.LOCK_EX)
        yield
    finally:
        os.close(directory)
