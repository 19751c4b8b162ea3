"""`llmsvc status`: what runs, since when, who waits, and whether requests are answered."""

from __future__ import annotations

import argparse
import json
import signal
import sys
import time
from collections.abc import Iterator
from typing import Any

from llmsvc.cli import overview
from llmsvc.cli.output import Result, clock, duration, has_colour, printable

NOT_READY = 3
"""Exit status where requests are not answered, as systemctl's for a unit that does not run."""
_LOOK_SECONDS = 1.0
# rows of requests that run, and of the last moments
_USUAL_BACKLOG_BYTES = 1_000_000
_ALWAYS_NEW = (
    "memory",
    "tokens_per_second",
    "since",
    "ledger_backlog",
    "models",
    "proxy",
    "socket",
    "held_since",
    "expected_seconds",
    "queue",
)
"""Keys whose change alone is no news."""
_MOST_ENTRIES = 20
_ALTERNATE, _NORMAL = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_RED, _GREEN, _YELLOW, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[33m", "\x1b[0m"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the command line."""
    parser = subparsers.add_parser(
        "status",
        help="what runs, since when, who waits, and whether it answers",
        description="Shows the model, what waits for it, the last switch, the proxy and where clients\n"
        "connect. Needs no root. Exit status: 0 requests are answered, 3 they are not.",
        epilog="examples:\n  llmsvc status --json\n  llmsvc status --watch",
    )
    parser.add_argument(
        "--watch",
        action="store_true",
        help="go on showing it until Ctrl-C; where the output is no terminal, one line for each change",
    )
    parser.set_defaults(command=_status)


def _status(arguments: argparse.Namespace) -> Result | int:
    as_json = getattr(arguments, "json", False)
    if not arguments.watch:
        found = overview.gather()
        return Result(found, text(found, colour=has_colour(sys.stdout)), 0 if found["ready"] else NOT_READY)
    # a service manager or a closed terminal ends it as Ctrl-C does, with the screen put back
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    try:
        if sys.stdout.isatty() and not as_json:
            _paint()
        else:
            _log(as_json=as_json)
    except KeyboardInterrupt:
        pass
    return 0


def _paint() -> None:
    """Paints the status anew each second, on the terminal's other screen; the last one stays on the first."""
    shown = ""
    print(_ALTERNATE, end="", flush=True)
    try:
        while True:
            shown = text(overview.gather(), colour=has_colour(sys.stdout))
            lines = shown.replace("\n", "\x1b[K\n")
            print(f"\x1b[H{lines}\x1b[K\n\x1b[J", end="", flush=True)
            time.sleep(_LOOK_SECONDS)
    finally:
        print(_NORMAL, end="", flush=True)
        if shown:
            print(shown, flush=True)


def _log(*, as_json: bool) -> None:
    """Prints a line for each change."""
    last = None
    while True:
        found = overview.gather()
        news = {key: value for key, value in found.items() if key not in _ALWAYS_NEW}
        if news != last:
            last = news
            print(json.dumps({"at": time.time(), **found}) if as_json else line(found), flush=True)
        time.sleep(_LOOK_SECONDS)


def line(found: dict[str, Any]) -> str:
    """All that changes, on one line."""
    parts = [clock(time.time()), _model(found), *_requests(found)]
    if last := found["last_switch"]:
        parts.append(f"last switch {_switch(last)}")
    if found["rollback"]:
        parts.append(f"rollback {_rollback(found)}")
    if found["database"] is False:
        parts.append("database down")
    parts.append("ready" if found["ready"] else "NOT READY")
    return printable("  ".join(parts))


def text(found: dict[str, Any], *, colour: bool = False) -> str:
    """The status for people, some lines."""
    return "\n".join(
        f"{kind:<9} {_coloured(printable(value)) if colour else printable(value)}"
        for kind, value in _lines(found)
    )


def _lines(found: dict[str, Any]) -> Iterator[tuple[str, str]]:
    from llmsvc.library.progress import size

    more = [size(found["memory"])] if found["memory"] and found["model"] else []
    if found["tokens_per_second"] is not None:
        more.append(f"{found['tokens_per_second']:g} tokens/s")
    yield "model", "  ".join([_model(found), *more])
    for failed in found["models"]:
        if failed["active"] == "failed":
            yield "failed", f"{failed['model']}  {failed['result']}{_since(failed['since'])}"
    if requests := _requests(found):
        yield "requests", ", ".join(requests)
    yield from _queue(found["queue"] or [])
    if last := found["last_switch"]:
        yield "switch", _switch(last)
    if found["rollback"]:
        yield "rollback", _rollback(found)
    yield "default", found["default_model"] or "none: 'llmsvc model use NAME' chooses one"
    if found["single_key"]:
        yield "proxy", "none: single-key mode"
        yield "clients", f"{found['base_url']}  {'ready' if found['ready'] else 'NOT READY'}"
        return
    yield "proxy", _proxy(found)
    database = {True: "ok", False: "DOWN", None: "unknown, for the proxy does not tell"}[found["database"]]
    backlog = found["ledger_backlog"]
    waits = backlog and (found["database"] is False or backlog > _USUAL_BACKLOG_BYTES)
    yield "database", database + (f"  {size(backlog)} of rows wait for it" if waits else "")
    yield "clients", f"{found['base_url']}  {'ready' if found['ready'] else 'NOT READY'}"


def _model(found: dict[str, Any]) -> str:
    model, coming, state = found["model"], found["coming"], found["state"]
    percent = "" if found["progress"] is None else f" {found['progress']} %"
    if model and state == "deactivating":
        return f"{model}  finishing its requests" + (f"; {coming} comes next" if coming else "")
    if model:
        return f"{model}  ready{_since(found['since'])}"
    if coming:
        return f"{coming}  loading{percent}{_since(found['since'])}"
    if not found["systemd"]:
        return "unknown: systemd does not run here"
    if found["unloaded"]:
        return f"none  {found['unloaded']} was idle, the next request starts it"
    last = found["rollback"]
    if last and last["retry_at"]:
        return f"none  {last['to']} is tried at {clock(last['retry_at'])}"
    default = found["default_model"]
    return "none" + (f"  'llmsvc start' starts {default}" if default else "")


def _since(moment: float | None) -> str:
    if moment is None:
        return ""
    return f" since {clock(moment)} ({duration(max(round(time.time() - moment), 1))})"


def _requests(found: dict[str, Any]) -> list[str]:
    if found["running"] is None:
        return []
    held = found["held_since"]
    waiting = f"{found['waiting']} waiting"
    if held and found["waiting"]:
        waiting += f" for a model since {clock(held)}"
    elif found["waiting"] and found["expected_seconds"]:
        waiting += f" (a new one for about {duration(found['expected_seconds'])})"
    of = f" of {found['slots']}" if (found["slots"] or 0) > 1 else ""
    return [f"{found['running']}{of} running", waiting]


def _queue(entries: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The requests that run and wait, as root and admins may see them."""
    for entry in entries[:_MOST_ENTRIES]:
        user = (entry.get("user") or "you") + (f"/{entry['end_user']}" if entry.get("end_user") else "")
        wanted = f" for {entry['model']}" if entry["model"] and entry["position"] else ""
        expected = entry["expected_seconds"]
        turn = f", its turn in about {duration(expected)}" if expected else ""
        what = f"{entry['state']}{wanted} for {duration(entry['seconds'])}{turn}"
        yield f"  {entry['position'] or '-':>3}", f"{entry['id']}  {user}  {what}"
    if len(entries) > _MOST_ENTRIES:
        yield "", f"and {len(entries) - _MOST_ENTRIES} more: --json shows all"


def _switch(last: dict[str, Any]) -> str:
    seconds = f" in {duration(last['seconds'])}" if last.get("seconds") is not None else ""
    before, after = last.get("from") or "none", last.get("to") or "none"
    models = f"{after} again" if before == after else f"{before} -> {after}"
    return f"{models} at {clock(last['at'])}{seconds}: {last.get('result')}"


def _rollback(found: dict[str, Any]) -> str:
    last = found["rollback"]
    if found["model"] == last["failed"]:
        went = "it runs again"
    elif last["retry_at"]:
        went = f"{last['to']} is tried at {clock(last['retry_at'])}"
    else:
        went = f"went back to {last['to']}" if last["to"] else "no other model was left"
    return f"{last['failed']} failed at {clock(last['at'])}; {went}; {last['reason']}"


def _proxy(found: dict[str, Any]) -> str:
    proxy = found["proxy"]
    if proxy is None:
        return "tells that it runs" if found["proxy_tells"] else "unknown"
    shown = proxy["active"] if proxy["active"] == "active" else proxy["active"].upper()
    socket = found["socket"]["active"]
    closed = "" if socket == "active" else f"  its socket is {socket.upper()}"
    silent = "" if found["proxy_tells"] or proxy["active"] != "active" else "  tells nothing of its requests"
    return f"{shown}{_since(proxy['since'])}{closed}{silent}"


def _coloured(value: str) -> str:
    for words, colour in (
        (("NOT READY", "DOWN", "FAILED", "INACTIVE"), _RED),
        (("loading", "finishing"), _YELLOW),
    ):
        for word in words:
            if word in value:
                return value.replace(word, f"{colour}{word}{_PLAIN}", 1)
    return value.replace("  ready", f"  {_GREEN}ready{_PLAIN}", 1)
