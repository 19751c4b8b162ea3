"""`llmsvc audit`: who changed what."""

from __future__ import annotations

import argparse

from llmsvc.cli import moments, output, session
from llmsvc.cli.output import Result, Table
from llmsvc.errors import UsageError

_DEFAULT = "30d"
_HEADERS = ("at", "actor", "verb", "object")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "audit",
        help="show who changed what",
        description="Shows the commands that changed something, the newest last: when, by whom (the login "
        "name, also behind sudo), the command, and what it was done to. Times without a zone are of this "
        "machine's zone. It holds no secrets, and nothing removes old entries.",
        epilog="example:\n  sudo llmsvc audit                           the last 30 days\n"
        "  sudo llmsvc audit --since 2026-01-01 --actor alice\n"
        "  sudo llmsvc audit --since 2026-01-01 --csv > audit.csv",
    )
    parser.add_argument(
        "--since",
        type=moments.past_local,
        metavar="TIME",
        help=f"from here on: 2026-10-01, 2026-10-01T15:30, today, 7d or 12h ago (default: {_DEFAULT})",
    )
    parser.add_argument("--until", type=moments.past_local, metavar="TIME", help="to here, not included")
    parser.add_argument("--actor", type=session.utf8, metavar="NAME", help="only what this person did")
    parser.add_argument("--csv", action="store_true", help="print CSV")
    parser.set_defaults(command=_audit)


def _audit(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import audit

    session.one_format(args)
    since = args.since or moments.past_local(_DEFAULT)
    if args.until and args.until <= since:
        raise UsageError("--until is not after --since", hint=f"--since is {since:%Y-%m-%d %H:%M}")
    with session.database() as connection:
        found = audit.entries(connection, since, args.until, args.actor)
    data = [{"at": e.at, "actor": e.actor, "verb": e.verb, "object": e.object} for e in found]
    if args.csv:
        return Result(data, output.csv_text(_HEADERS, [(e.at, e.actor, e.verb, e.object) for e in found]))
    rows = [(f"{e.at.astimezone():%Y-%m-%d %H:%M:%S}", e.actor, e.verb, e.object) for e in found]
    zone = since.astimezone().tzname()
    title = f"since {since.astimezone():%Y-%m-%d %H:%M}, all times in {zone}"
    return Result(data, Table(("time", *_HEADERS[1:]), rows, "nothing was changed", title=title))
