"""Starts, stops and restarts models for a command: checked before the old one stops, shown while it goes on,
told to the journal, and with the reason and what runs instead where it fails."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from llmsvc.cli.output import clock, printable
from llmsvc.errors import DeniedError, Error
from llmsvc.library.progress import ProgressLine

if TYPE_CHECKING:
    from llmsvc.systemd.manager import StartError, State
    from llmsvc.systemd.rollback import Rollback

Verb = Literal["start", "restart", "stop"]
_LOOK_SECONDS = 0.25
_BACK_SECONDS = 300.0
"""How long a command waits for another model to be back, at most."""
_NOTHING_SECONDS = 10.0
"""How long nothing at all may happen until it is clear that none comes back."""
_BIG = 500_000_000
"""Bytes of a file from which on its check takes long enough to be shown."""


class LeftError(Error):
    """The person does not wait any longer; systemd goes on."""

    exit_code = 130


def start(name: str, *, force: bool = False, quiet: bool = False) -> None:
    """Starts a model, which stops the one that runs; returns once it answers.

    :param force: do not check checksum and memory
    :param quiet: show nothing meanwhile
    :raises Error: it cannot start, and what runs was not touched
    :raises StartError: it did not start; the hint says what runs now, `details` are for programs
    :raises LeftError: Ctrl-C
    """
    from llmsvc.systemd import manager

    _check(name, force=force, quiet=quiet)
    _act("start", name, manager.switch, quiet)


def restart(name: str, *, force: bool = False, quiet: bool = False) -> None:
    """Restarts a model, as start()."""
    from llmsvc.systemd import manager

    _check(name, force=force, quiet=quiet)
    _act("restart", name, manager.restart, quiet)


def stop(name: str, *, quiet: bool = False) -> None:
    """Stops a model once it has finished its requests."""
    from llmsvc.systemd import manager

    _act("stop", name, manager.stop, quiet)


def _check(name: str, *, force: bool, quiet: bool) -> None:
    from llmsvc.library import preflight

    with ProgressLine(quiet=quiet) as line:

        def progress(file: Path, done: int, size: int) -> None:
            if size >= _BIG:
                line.show(f"checking {file.name}", f"{100 * done // max(size, 1)} %")

        preflight.check(name, force=force, progress=progress)


class _Thread(threading.Thread):
    """Runs a call that waits, so that its caller can look meanwhile; a daemon, for systemd can do without."""

    def __init__(self, call: Callable[[], None]) -> None:
        super().__init__(daemon=True)
        self._call = call
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            self._call()
        except BaseException as error:  # raised again by who waits for it
            self.error = error


def _act(verb: Verb, name: str, call: Callable[[str], None], quiet: bool) -> None:
    from llmsvc.systemd import manager

    begin = time.time()
    old = next((other for other in _names(manager.instances(), "active", "reloading") if other != name), None)
    thread = _Thread(lambda: call(name))
    with ProgressLine(quiet=quiet) as line:
        try:
            thread.start()
            thread.join(_LOOK_SECONDS)
            if not isinstance(thread.error, DeniedError):
                _note(verb, name, old)
            while thread.is_alive():
                line.show(*step(verb, name, manager.instances()))
                thread.join(_LOOK_SECONDS)
        except KeyboardInterrupt:
            raise _interrupted(f"the {verb} of {name}") from None
        if isinstance(thread.error, manager.StartError):
            raise _explain(thread.error, begin, line)
    if thread.error:
        raise thread.error


def _interrupted(what: str) -> LeftError:
    return LeftError(
        f"interrupted; {what} goes on in systemd", hint="'llmsvc status --watch' shows how far it is"
    )


def step(verb: Verb, name: str, states: list[State]) -> tuple[str, str]:
    """What `verb` of model `name` waits for, and how far that is."""
    for leaving in _names(states, "deactivating"):
        return f"waiting for {leaving} to finish its requests", ""
    for state in states:
        if state.unit == f"llama-server@{name}.service" and state.active == "activating":
            return loading(name, state.text)
    return f"waiting for the {verb} of {name}", ""


def loading(name: str, text: str) -> tuple[str, str]:
    """The same of a model that loads, from its STATUS= line."""
    if text.startswith(("Testing", "Serving")):
        return f"testing {name}", ""
    percent = re.search(r"(\d+) ?%", text)
    return f"loading {name}", f"{percent[1]} %" if percent else ""


def _names(states: list[State], *active: str) -> list[str]:
    from llmsvc.systemd import manager

    return [manager.instance_name(state.unit) for state in states if state.active in active]


def _note(verb: Verb, name: str, old: str | None) -> None:
    """The journal's entry about who did it."""
    from llmsvc.actor import actor
    from llmsvc.systemd import journal

    person = actor()
    instead = f" instead of {old}" if old and verb == "start" else ""
    journal.note(
        "llmsvc",
        f"{person} {verb}s {name}{instead}",
        {"LLM_ACTOR": person.name, "LLM_MODEL": name, "LLM_VERB": verb},
    )


def _explain(error: StartError, begin: float, line: ProgressLine) -> StartError:
    """Shows the journal's lines of the attempt and adds which model runs instead, once it is ready."""
    for text in error.lines:
        line.say(f"  {printable(text)}")
    try:
        back, ready = _await_back(begin, line)
    except KeyboardInterrupt:
        raise _interrupted("going back to another model") from None
    if back:
        told = f"{back} is back, and answers" if ready else f"{back} is on its way back"
    else:
        last = _rollback_since(begin)
        told = "no model runs now"
        if last and last.retry_at:
            told += f"; {last.to} is tried at {clock(last.retry_at)}"
    error.hint = f"{told}; {error.hint}"
    error.details = {
        "lines": error.lines,
        "model": back if ready else None,
        "coming": None if ready else back,
    }
    return error


def _await_back(begin: float, line: ProgressLine) -> tuple[str | None, bool]:
    """The model that runs after the failure, and whether it is ready; (None, False) if none comes."""
    from llmsvc.systemd import manager, rollback

    deadline = time.monotonic() + _BACK_SECONDS
    quiet_until = time.monotonic() + _NOTHING_SECONDS
    coming: str | None = None
    while time.monotonic() < deadline:
        states = manager.instances()
        for name in _names(states, "active", "reloading"):
            return name, True
        coming = next(iter(_names(states, "activating")), None)
        if coming:
            text = next(state.text for state in states if state.active == "activating")
            of_load, detail = loading(coming, text)
            line.show(f"going back: {of_load}", detail)
            quiet_until = time.monotonic() + _NOTHING_SECONDS
        elif time.monotonic() > quiet_until or _gave_up(begin):
            if not rollback.at_work():
                return None, False
        else:
            line.show("going back to the last good model")
        time.sleep(_LOOK_SECONDS)
    return coming, False


def _gave_up(begin: float) -> bool:
    """Whether no other model is started for now."""
    last = _rollback_since(begin)
    return last is not None and (last.to is None or last.retry_at is not None)


def _rollback_since(begin: float) -> Rollback | None:
    from llmsvc.systemd import rollback

    last = rollback.last()
    return last if last and last.at >= begin else None
