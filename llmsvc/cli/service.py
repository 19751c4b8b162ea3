"""`llmsvc start|stop|restart|status`: the models' units, in systemd's own terms."""

from __future__ import annotations

import argparse
import dataclasses
from typing import TYPE_CHECKING

from llmsvc.cli import switching
from llmsvc.cli.output import Result
from llmsvc.errors import Error, NotFoundError

if TYPE_CHECKING:
    from llmsvc.systemd.manager import State


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds all four to the command line."""
    verbs = {
        "start": ("start a model; the one that runs is stopped first", _start),
        "stop": ("stop the model; requests wait until one is started", _stop),
        "restart": ("restart the model", _restart),
    }
    for verb, (text, function) in verbs.items():
        parser = subparsers.add_parser(
            verb,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.\n"
            f"The same as systemctl {verb} llama-server@MODEL; returns when it is done.",
            epilog=f"example: llmsvc {verb} mistral",
        )
        parser.add_argument(
            "model",
            nargs="?",
            metavar="MODEL",
            help="default: " + ("the model of the next boot" if verb == "start" else "the one that runs"),
        )
        parser.set_defaults(command=function)
    status = subparsers.add_parser(
        "status",
        help="what runs, since when, and whether it answers",
        description="Shows the model, the proxy and where clients connect. Needs no root.",
        epilog="example: llmsvc status --json",
    )
    status.set_defaults(command=_status)


def _start(arguments: argparse.Namespace) -> Result:
    from llmsvc.library import store
    from llmsvc.systemd import manager

    default = store.default_model()
    name = arguments.model or default
    if not name:
        raise NotFoundError("no model is the default", hint="llmsvc model list; llmsvc model use NAME")
    switching.act(manager.switch, name)
    text = f"{name} is ready."
    if name != default:
        text += f" It runs until the next boot; 'llmsvc model use {name}' keeps it."
    return Result({"model": name, "state": "active"}, text)


def _stop(arguments: argparse.Namespace) -> Result:
    from llmsvc.systemd import manager

    name = arguments.model or manager.active_model()
    if not name:
        return Result({"model": None, "state": "inactive"}, "No model runs.")
    manager.stop(name)
    return Result({"model": name, "state": "inactive"}, f"{name} is stopped.")


def _restart(arguments: argparse.Namespace) -> Result:
    from llmsvc.library import store
    from llmsvc.systemd import manager

    name = arguments.model or manager.active_model() or store.default_model()
    if not name:
        raise NotFoundError("no model runs, and none is the default", hint="llmsvc model list")
    switching.act(manager.restart, name)
    return Result({"model": name, "state": "active"}, f"{name} is ready.")


def _status(arguments: argparse.Namespace) -> Result:
    from llmsvc import client, config
    from llmsvc.library import store
    from llmsvc.systemd import manager

    instances = manager.instances()
    socket, proxy = manager.states([manager.SOCKET, manager.PROXY])
    base_url = config.load().base_url
    try:
        answers = client.get_json(base_url, "/ready", timeout=5)[0] == 200
    except Error:
        answers = False
    default = store.default_model()
    data = {
        "models": [dataclasses.asdict(s) | {"model": manager.instance_name(s.unit)} for s in instances],
        "default_model": default,
        "proxy": dataclasses.asdict(proxy),
        "socket": dataclasses.asdict(socket),
        "base_url": base_url,
        "ready": answers,
    }
    lines = []
    for instance in instances:
        lines.append(_line("model", manager.instance_name(instance.unit), instance))
    if not instances:
        lines.append("model    none runs" + (f"; 'llmsvc start' starts {default}" if default else ""))
    lines.append(f"default  {default or 'none'}")
    lines.append(_line("proxy", "auth-proxy", proxy))
    lines.append(f"clients  {base_url}  {'ready' if answers else 'NOT READY'}")
    return Result(data, "\n".join(lines))


def _line(kind: str, name: str, state: State) -> str:
    from llmsvc.library import progress

    parts = [f"{kind:<8} {name}", f"{state.active} ({state.sub})"]
    if state.active == "active":
        parts.append(f"since {state.since}")
    elif state.result != "success":
        parts.append(f"result {state.result}")
    if state.memory:
        parts.append(progress.size(state.memory))
    if state.text:
        parts.append(state.text)
    return "  ".join(parts)
