"""`llmsvc start|stop|restart`: the models' units, in systemd's own terms."""

from __future__ import annotations

import argparse

from llmsvc.cli import session, switching
from llmsvc.cli.output import Result
from llmsvc.errors import NotFoundError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds all three to the command line."""
    verbs = {
        "start": ("start a model; the one that runs is stopped first", _start),
        "stop": ("stop the model; requests wait until one is started", _stop),
        "restart": ("restart the model", _restart),
    }
    for verb, (text, function) in verbs.items():
        checks = (
            ""
            if verb == "stop"
            else "Settings, file, checksum and memory are checked before one is stopped.\n"
        )
        parser = subparsers.add_parser(
            verb,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.\n{checks}"
            f"The same as systemctl {verb} llama-server@MODEL; returns when it is done.",
            epilog=f"example: llmsvc {verb} mistral",
        )
        parser.add_argument(
            "model",
            nargs="?",
            metavar="MODEL",
            help="default: " + ("the model of the next boot" if verb == "start" else "the one that runs"),
        )
        if verb != "stop":
            add_force(parser)
        parser.set_defaults(command=function)


def add_force(parser: argparse.ArgumentParser) -> None:
    """Adds --force, as every command has it that starts a model."""
    parser.add_argument(
        "--force", action="store_true", help="start it without a look at checksum and free memory"
    )


def _start(arguments: argparse.Namespace) -> Result:
    from llmsvc.library import store

    default = store.default_model()
    name = arguments.model or default
    if not name:
        raise NotFoundError("no model is the default", hint="llmsvc model list; llmsvc model use NAME")
    switching.start(name, force=arguments.force, quiet=_as_json(arguments))
    session.note("start", name)
    text = f"{name} is ready."
    if name != default:
        text += f" It runs until the next boot; 'llmsvc model use {name}' keeps it."
    return Result({"model": name, "state": "active"}, text)


def _stop(arguments: argparse.Namespace) -> Result:
    from llmsvc.library import store
    from llmsvc.systemd import manager, rollback

    name = arguments.model or manager.current()
    if not name:
        rollback.await_end()
        name = manager.current()
    if not name:
        planned = rollback.last()
        if not planned or not planned.to or not planned.retry_at:
            return Result({"model": None, "state": "inactive"}, "No model runs.")
        # the stop of any model ends the retries
        switching.stop(planned.to, quiet=_as_json(arguments))
        return Result(
            {"model": planned.to, "state": "inactive"}, f"No model runs; {planned.to} is not tried again."
        )
    # one that was removed may run all the same
    there = {manager.instance_name(state.unit) for state in manager.instances()}
    if arguments.model and name not in there:
        store.require(name)
    switching.stop(name, quiet=_as_json(arguments))
    session.note("stop", name)
    default = store.default_model()
    text = f"{name} is stopped."
    if default:
        text += f" {default} starts at the next boot; 'llmsvc start' starts it now."
    return Result({"model": name, "state": "inactive"}, text)


def _restart(arguments: argparse.Namespace) -> Result:
    from llmsvc.library import store
    from llmsvc.systemd import manager

    name = arguments.model or manager.current() or store.default_model()
    if not name:
        raise NotFoundError("no model runs, and none is the default", hint="llmsvc model list")
    switching.restart(name, force=arguments.force, quiet=_as_json(arguments))
    session.note("restart", name)
    return Result({"model": name, "state": "active"}, f"{name} is ready.")


def _as_json(arguments: argparse.Namespace) -> bool:
    return getattr(arguments, "json", False)
