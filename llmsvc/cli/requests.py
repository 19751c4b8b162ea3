"""`llmsvc requests`: the single requests, the latest ones or as they come."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from typing import TYPE_CHECKING

from llmsvc.cli import output, session
from llmsvc.cli.output import Result, Table
from llmsvc.errors import NotFoundError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from llmsvc.accounts.requests import Filter, Request

_POLL_SECONDS = 0.5
_RETRY_SECONDS = 2.0
_BATCH = 1000
_HEADERS = ("time", "user", "model", "state", "status", "in", "out", "waited", "took", "client", "id")
_RIGHT = ("status", "in", "out", "waited", "took")
_WIDTHS = (19, 14, 16, 12, 6, 6, 6, 7, 7, 15, 36)


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "requests",
        help="show the latest requests, follow them, or cancel one",
        description="Shows the latest requests that have ended, the newest last: who, model, how it "
        "ended, tokens in and out, wait in the queue, time in all, and from where. Prompts and answers "
        "are kept nowhere. Times are of this machine's zone.",
        epilog="example:\n  sudo llmsvc requests\n"
        "  sudo llmsvc requests --user alice --state rejected --limit 100\n"
        "  sudo llmsvc requests --follow\n"
        "  sudo llmsvc requests cancel 019ac3f0-5b1c-7d3e-9a40-0c2f6d1e8b77",
    )
    parser.add_argument("--user", type=session.utf8, metavar="USER", help="only this user's")
    parser.add_argument(
        "--end-user",
        type=session.utf8,
        metavar="NAME",
        help="only those that a front end sent on behalf of this person",
    )
    parser.add_argument(
        "--model", type=session.utf8, metavar="MODEL", help="only those that this model answered"
    )
    parser.add_argument(
        "--state",
        metavar="STATE",
        help="only those that ended so: ok, error, timeout, client_gone, cancelled, switched, proxy_killed, "
        "rejected, or one kind of rejected_…",
    )
    parser.add_argument(
        "-n", "--limit", type=_limit, default=20, metavar="N", help="how many (default: 20, at most 100000)"
    )
    parser.add_argument(
        "-f",
        "--follow",
        action="store_true",
        help="go on with new ones until Ctrl-C; --json: one object a line",
    )
    parser.set_defaults(command=_requests)
    verbs = parser.add_subparsers(metavar="VERB")
    cancel = verbs.add_parser(
        "cancel",
        help="end a request that waits or runs",
        description="Ends a request that waits or runs; its client gets 403 'request_cancelled'. "
        "'sudo llmsvc status' shows the ids. Without root: the requests of the key in OPENAI_API_KEY.",
        epilog="example: sudo llmsvc requests cancel 019ac3f0-5b1c-7d3e-9a40-0c2f6d1e8b77",
    )
    cancel.add_argument(
        "id", type=_id, metavar="ID", help="the request's id, as its x-request-id header has it"
    )
    cancel.set_defaults(command=_cancel)


def _limit(text: str) -> int:
    if not text.isascii() or not text.isdecimal() or not 0 <= int(text[:9]) <= 100_000:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 100000, not {text[:20]!r}")
    return int(text)


def _id(text: str) -> str:
    import uuid

    try:
        return str(uuid.UUID(text))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be the id of a request, not {text[:40]!r}") from None


def _requests(args: argparse.Namespace) -> Result | int:
    from llmsvc.accounts import requests

    which = requests.Filter(args.user, args.model, args.end_user, args.state)
    if args.follow:
        return _follow(which, args.limit, as_json=getattr(args, "json", False))
    with session.database() as connection:
        found = requests.latest(connection, which, args.limit)
    rows = [_cells(request) for request in found]
    return Result([_data(request) for request in found], Table(_HEADERS, rows, "no requests", right=_RIGHT))


def _cancel(args: argparse.Namespace) -> Result:
    from llmsvc import client
    from llmsvc.cli.ask import own_key

    try:
        user = client.cancel(session.configuration().base_url, own_key(), args.id)
    except NotFoundError as error:
        error.hint = (
            "'llmsvc status' shows those that you may cancel, 'llmsvc requests' those that have ended"
        )
        raise
    session.note("requests cancel", f"{args.id} of {user}")
    return Result({"id": args.id, "user": user, "cancelled": True}, f"cancelled {user}'s request {args.id}")


def _follow(which: Filter, limit: int, *, as_json: bool) -> int:
    """Prints what is there and then what comes, until interrupted; goes on after PostgreSQL was away."""
    from llmsvc.accounts import requests

    seq: int | None = None
    away = False
    while True:
        try:
            with session.database() as connection:
                if seq is None:
                    found, seq = requests.beginning(connection, which, limit)
                    if not as_json:
                        print(_line([header.upper() for header in _HEADERS]))
                    _print(found, as_json=as_json)
                away = False
                while True:
                    found = requests.after(connection, which, seq, _BATCH)
                    _print(found, as_json=as_json)
                    seq = found[-1].seq if found else seq
                    if len(found) < _BATCH:
                        time.sleep(_POLL_SECONDS)
        except UnavailableError as error:
            if seq is None:
                raise
            if not away:
                print(f"llmsvc: {error.message}; trying again", file=sys.stderr)
            away = True
            time.sleep(_RETRY_SECONDS)


def _print(found: Iterable[Request], *, as_json: bool) -> None:
    for request in found:
        print(json.dumps(_data(request), default=str) if as_json else _line(_cells(request)))
    sys.stdout.flush()


def _cells(request: Request) -> list[object]:
    """One request for people, in the order of _HEADERS."""
    return [
        request.created_at.astimezone().strftime("%Y-%m-%d %H:%M:%S"),
        f"{request.username} ({request.end_user})" if request.end_user else request.username,
        request.model,
        request.state,
        request.status_code,
        request.prompt_tokens,
        request.completion_tokens,
        _duration(request.queue_ms),
        _duration(request.duration_ms),
        request.client_addr,
        str(request.request_id),
    ]


def _line(cells: Iterable[object]) -> str:
    """A line of its own, for columns whose widths cannot wait for the last row."""
    return "  ".join(
        output.cell(value).rjust(width) if header in _RIGHT else output.cell(value).ljust(width)
        for value, width, header in zip(cells, _WIDTHS, _HEADERS, strict=True)
    ).rstrip()


def _duration(milliseconds: int | None) -> str | None:
    return None if milliseconds is None else output.duration(milliseconds / 1000)


def _data(request: Request) -> dict[str, object]:
    data = dataclasses.asdict(request)
    return (
        {"user": data.pop("username")}
        | data
        | {
            "request_id": str(request.request_id),
            "created_at": request.created_at.isoformat(),
        }
    )
