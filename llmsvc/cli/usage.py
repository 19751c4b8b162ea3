"""`llmsvc usage`: who used how much of the service."""

from __future__ import annotations

import argparse
import datetime
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmsvc.cli import moments, output, session
from llmsvc.cli.output import Result, Table
from llmsvc.errors import UsageError

if TYPE_CHECKING:
    from llmsvc.accounts.usage import Filter, Period, Usage

_BAR = 20
_DEFAULT_DAYS = 30
_BY = ("user", "end-user", "model", "day", "key")
_NUMBERS = ("requests", "errors", "rejected", "prompt_tokens", "completion_tokens", "model_ms", "queue_ms")

Groups = dict[str, object]


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "usage",
        help="show who used how much",
        description="Sums up requests, tokens in and out, time on the model, wait in the queue, errors "
        "(we failed) and rejected requests (we refused: limits, a full queue, a bad request). The bar is "
        "the share of the time on the model. Days and times without a zone are UTC. Requests count on the "
        "day on which they came, and stay counted after their rows are pruned.",
        epilog="example:\n  sudo llmsvc usage                              the last 30 days, by user\n"
        "  sudo llmsvc usage --by day --user alice\n"
        "  sudo llmsvc usage --by key --month 2026-10 --csv > october.csv\n"
        "  sudo llmsvc usage --by end-user --user webui       the people behind a front end\n"
        "  sudo llmsvc usage --since 12h --by model",
    )
    parser.add_argument("--by", choices=_BY, default="user", help="what a line is about (default: user)")
    parser.add_argument("--user", type=session.utf8, metavar="USER", help="only this user's")
    parser.add_argument(
        "--end-user",
        type=session.utf8,
        metavar="NAME",
        help="only what a front end asked for on behalf of this person",
    )
    parser.add_argument("--model", type=session.utf8, metavar="MODEL", help="only what this model answered")
    parser.add_argument(
        "--since",
        type=moments.past_utc,
        metavar="TIME",
        help="from here on: 2026-10-01, 2026-10-01T15:30, today, 7d or 12h ago (default: 30d)",
    )
    parser.add_argument("--until", type=moments.past_utc, metavar="TIME", help="to here, not included")
    parser.add_argument("--month", type=moments.month_utc, metavar="YYYY-MM", help="one month")
    parser.add_argument("--csv", action="store_true", help="print CSV, times in milliseconds, no total")
    parser.set_defaults(command=_usage)


def _usage(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import usage

    session.one_format(args)
    with session.database() as connection:
        period = usage.known(connection, _period(args))
        found = usage.report(connection, args.by, period, _filter(args))
    rows = [(_group(args.by, row), [getattr(row, name) for name in _NUMBERS]) for row in found]
    total = [sum(column) for column in zip(*(numbers for _, numbers in rows), strict=True)] or [0] * len(
        _NUMBERS
    )
    data = {
        "by": args.by,
        "since": period.since,
        "until": period.until,
        "time_zone": "UTC",
        "rows": [group | dict(zip(_NUMBERS, numbers, strict=True)) for group, numbers in rows],
        "total": dict(zip(_NUMBERS, total, strict=True)),
    }
    if args.csv:
        headers = [*_group(args.by, None), *_NUMBERS]
        return Result(
            data, output.csv_text(headers, [[*group.values(), *numbers] for group, numbers in rows])
        )
    only = [("user", args.user), ("end user", args.end_user), ("model", args.model)]
    title = ", ".join(
        [f"{_told(period)}, all times in UTC", *(f"{what} {name}" for what, name in only if name)]
    )
    return Result(data, _table(title, args.by, rows, total))


def _filter(args: argparse.Namespace) -> Filter:
    from llmsvc.accounts.usage import Filter

    return Filter(args.user, args.end_user, args.model)


def _period(args: argparse.Namespace) -> Period:
    from llmsvc.accounts.usage import Period

    if args.month:
        if args.since or args.until:
            raise UsageError("--month is a period of its own", hint="leave out --since and --until")
        return Period(*args.month)
    since = args.since
    if since is None:
        end = args.until or datetime.datetime.now(moments.UTC)
        try:
            since = end.replace(hour=0, minute=0, second=0, microsecond=0) - datetime.timedelta(_DEFAULT_DAYS)
        except OverflowError:
            since = end
    if args.until and args.until <= since:
        raise UsageError("--until is not after --since", hint="--until is not included: give the day after")
    return Period(since, args.until)


def _group(by: str, row: Usage | None) -> Groups:
    """What a line is about; the same keys with None for no line."""
    if by == "user":
        return {"user": row and row.username}
    if by == "end-user":
        return {"user": row and row.username, "end_user": row and row.end_user}
    if by == "model":
        return {"model": row and row.model}
    if by == "day":
        return {"day": row and row.day}
    return {
        "user": row and row.username,
        "key": row and row.key_name,
        "key_prefix": row and row.key_prefix,
        "key_id": row and row.key_id,
    }


def _table(title: str, by: str, rows: Sequence[tuple[Groups, list[int]]], total: list[int]) -> Table:
    shown = {"user": "user", "end_user": "end user", "model": "model", "day": "day", "key": "key"}
    groups = [name for name in _group(by, None) if name in shown]
    right = ("requests", "errors", "rejected", "tokens in", "tokens out", "on the model", "in the queue")
    whole = total[_NUMBERS.index("model_ms")]
    lines = []
    for group, numbers in rows:
        share = numbers[_NUMBERS.index("model_ms")] / whole if whole else 0
        lines.append([*(group[name] for name in groups), *_cells(numbers), _bar(share)])
    if lines:
        lines.append(["total", *[""] * (len(groups) - 1), *_cells(total), ""])
    headers = [*(shown[name] for name in groups), *right, "share of time"]
    return Table(headers, lines, "no requests", title=title, right=right)


def _cells(numbers: Sequence[int]) -> list[str]:
    *counts, model_ms, queue_ms = numbers
    return [f"{count:,}" for count in counts] + [output.duration(ms / 1000) for ms in (model_ms, queue_ms)]


def _bar(share: float) -> str:
    block = "#" if "utf" not in (sys.stdout.encoding or "").lower() else "█"
    return f"{share:4.0%} {block * round(share * _BAR)}".rstrip()


def _told(period: Period) -> str:
    form = "%Y-%m-%d %H:%M"
    return f"{period.since:{form}} to {format(period.until, form) if period.until else 'now'}"
