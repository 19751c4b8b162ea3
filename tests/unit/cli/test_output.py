"""What people and programs get to see of a result."""

from __future__ import annotations

import dataclasses
import datetime
import io
import json
from pathlib import Path

import pytest

from llmsvc.cli import output
from llmsvc.cli.output import Result, Table

BERLIN = datetime.timezone(datetime.timedelta(hours=1))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(result, *, as_json=False, stream=None):
    stream = stream or io.StringIO()
    output.show(result, as_json=as_json, stream=stream)
    return stream.getvalue()


def test_columns_are_aligned_and_numbers_stand_to_the_right():
    table = Table(("name", "keys", "on"), [("alice", 3, True), ("bo", 12, False), ("c", None, None)])
    assert shown(Result([], table)).splitlines() == [
        "NAME   KEYS  ON",
        "alice     3  yes",
        "bo       12  no",
        "c         -  -",
    ]


def test_a_table_without_rows_says_so():
    assert shown(Result([], Table(("name",), [], "no users"))) == "no users\n"


def test_only_a_terminal_gets_a_bold_header(monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    result = Result([], Table(("name",), [("a",)]))
    assert shown(result) == "NAME\na\n"
    assert shown(result, stream=Terminal()) == "\x1b[1mNAME\x1b[0m\na\n"
    monkeypatch.setenv("NO_COLOR", "1")
    assert shown(result, stream=Terminal()) == "NAME\na\n"


def test_a_cell_cannot_steer_the_terminal():
    assert shown(Result([], Table(("name",), [("a\x1b[2J\nb",)]))) == "NAME\na?[2J?b\n"


def test_json_has_times_with_offset_and_the_fields_of_dataclasses():
    @dataclasses.dataclass
    class Thing:
        at: datetime.datetime
        file: Path

    thing = Thing(datetime.datetime(2026, 11, 22, 15, 47, tzinfo=BERLIN), Path("/etc/ü"))
    text = shown(Result([thing], "ignored"), as_json=True)
    assert json.loads(text) == [{"at": "2026-11-22T15:47:00+01:00", "file": "/etc/ü"}]


def test_json_of_something_unforeseen_is_a_bug():
    with pytest.raises(TypeError, match="bytes"):
        output.json_text({"key": b"secret"})


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.35, "350 ms"),
        (2.44, "2.4 s"),
        (42.2, "42 s"),
        (60, "1 min"),
        (200, "3 min 20 s"),
        (7500, "2 h 5 min"),
        (273600, "3 d 4 h"),
    ],
)
def test_durations_are_short(seconds, text):
    assert output.duration(seconds) == text


def test_a_title_stands_above_the_table_and_above_none():
    assert shown(Result([], Table(("name",), [("a",)], title="all"))) == "all\nNAME\na\n"
    assert shown(Result([], Table(("name",), [], title="all"))) == "all\nnone\n"


def test_columns_stand_to_the_right_when_told_to():
    table = Table(("name", "took"), [("a", "3 s"), ("b", "350 ms")], right=("took",))
    assert shown(Result([], table)).splitlines() == ["NAME    TOOK", "a        3 s", "b     350 ms"]


def test_csv_is_quoted_and_has_no_cell_that_a_spreadsheet_would_run():
    rows = [("a,b", datetime.datetime(2026, 11, 22, 15, 47, tzinfo=BERLIN), None), ("=1+1", -3, "@x")]
    assert output.csv_text(("name", "at", "n"), rows).splitlines() == [
        "name,at,n",
        '"a,b",2026-11-22T15:47:00+01:00,',
        "'=1+1,-3,'@x",
    ]
