"""Renders what a command returns, for people as table or text, for programs as JSON; nothing else does."""

from __future__ import annotations

import csv
import dataclasses
import datetime
import io
import json
import os
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import TextIO

from llmsvc.errors import Error

_UNITS = ((86400, "d", 3600, "h"), (3600, "h", 60, "min"), (60, "min", 1, "s"))


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows for people. Cells may be text, numbers, booleans, datetimes and None.

    :ivar empty: what is printed instead where there are no rows
    :ivar title: a line above it, also where there are no rows
    :ivar right: headers of columns that stand to the right as numbers do
    """

    headers: Sequence[str]
    rows: Sequence[Sequence[object]]
    empty: str = "none"
    title: str = ""
    right: Collection[str] = ()


@dataclasses.dataclass(frozen=True)
class Result:
    """What a command did or found.

    :ivar data: for --json: dicts, lists, dataclasses, text, numbers, datetimes, paths, None
    :ivar human: for people; an empty text prints nothing
    """

    data: object
    human: str | Table
    exit_code: int = 0


def show(result: Result, *, as_json: bool, stream: TextIO | None = None) -> None:
    """Prints a result."""
    out = stream or sys.stdout
    if as_json:
        print(json_text(result.data), file=out)
    elif isinstance(result.human, Table):
        print(table_text(result.human, bold=has_colour(out)), file=out)
    elif result.human:
        print(result.human, file=out)


def show_error(error: Error, *, as_json: bool) -> None:
    """Prints `llmsvc: MESSAGE` and `hint: HINT` to stderr, or under --json one object to stdout."""
    if as_json:
        data = {
            "type": type(error).__name__,
            "message": error.message,
            "hint": error.hint,
            "exit_code": error.exit_code,
            **error.details,
        }
        print(json_text({"error": data}))
        return
    print(f"llmsvc: {printable(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {printable(error.hint)}", file=sys.stderr)


def json_text(data: object) -> str:
    """JSON of a result's data, in ASCII for any locale; datetimes as ISO 8601 with their offset."""
    return json.dumps(data, indent=2, default=_plain)


def table_text(table: Table, *, bold: bool = False) -> str:
    """The table with aligned columns, columns of numbers to the right, one line a row."""
    title = [table.title] if table.title else []
    if not table.rows:
        return "\n".join([*title, table.empty])
    rows = [[cell(value) for value in row] for row in table.rows]
    headers = [header.upper() for header in table.headers]
    widths = [max(len(line[i]) for line in (headers, *rows)) for i in range(len(headers))]
    numeric = [
        header in table.right
        or (
            all(value is None or type(value) in (int, float) for value in column)
            and any(value is not None for value in column)
        )
        for header, column in zip(table.headers, zip(*table.rows, strict=True), strict=True)
    ]

    def line(cells: Sequence[str]) -> str:
        parts = (
            text.rjust(width) if right else text.ljust(width)
            for text, width, right in zip(cells, widths, numeric, strict=True)
        )
        return "  ".join(parts).rstrip()

    head = line(headers)
    return "\n".join([*title, f"\x1b[1m{head}\x1b[0m" if bold else head, *map(line, rows)])


def csv_text(headers: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """CSV with a header line; datetimes as ISO 8601, None empty, and no cell that a spreadsheet would run."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(headers)
    writer.writerows([_csv_cell(value) for value in row] for row in rows)
    return text.getvalue().removesuffix("\n")


def duration(seconds: float) -> str:
    """Seconds for people, in at most two units: `350 ms`, `2.4 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 60:
        return f"{seconds:.0f} s"
    size, unit, small_size, small = next(row for row in _UNITS if seconds >= row[0])
    whole, rest = divmod(int(seconds), size)
    return f"{whole} {unit}" + (f" {rest // small_size} {small}" if rest // small_size else "")


def clock(epoch: float) -> str:
    """A moment for people, in local time: `18:31:02`, with the date where it is not today."""
    moment = datetime.datetime.fromtimestamp(epoch).astimezone()
    today = moment.date() == datetime.datetime.now().astimezone().date()
    return moment.strftime("%H:%M:%S" if today else "%Y-%m-%d %H:%M")


def cell(value: object) -> str:
    """A value as tables show it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, datetime.datetime):
        return value.astimezone().strftime("%Y-%m-%d %H:%M")
    return printable(str(value))


def _csv_cell(value: object) -> object:
    if isinstance(value, datetime.datetime):
        return value.isoformat()
    # some text comes from outside, such as the name that a front end gives its user
    return f"'{value}" if isinstance(value, str) and value.startswith(tuple("=+-@\t\r")) else value


def printable(text: str) -> str:
    """Text without what could move the cursor or recolour a terminal: some of it comes from outside."""
    return "".join(c if c.isprintable() else "?" for c in text)


def _plain(value: object) -> object:
    if isinstance(value, datetime.date):  # a datetime is one too
        return value.isoformat()
    if isinstance(value, Path):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    raise TypeError(f"{type(value).__name__} cannot be part of a result")


def has_colour(stream: TextIO) -> bool:
    """Whether escape sequences are for somebody who sees them."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
