"""Points in time as people type them."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import time

import pytest

from llmsvc.cli import moments

UTC = datetime.timezone.utc


@pytest.fixture
def berlin(monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"), [("90m", 5400), ("12h", 43200), ("30d", 2592000), ("2w", 1209600), ("0h", 0)]
)
def test_a_span_has_a_unit(text, seconds):
    assert moments.span(text).total_seconds() == seconds


@pytest.mark.parametrize("text", ["", "3", "d", "3 d", "-3d", "1.5h", "3y", "3d\n", "٣d", "9999999d"])
def test_what_is_no_span_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="30d"):
        moments.span(text)


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-10-01", datetime.datetime(2026, 10, 1)),
        ("2026-10-01T15:30", datetime.datetime(2026, 10, 1, 15, 30)),
        ("2026-10-01 15:30:05", datetime.datetime(2026, 10, 1, 15, 30, 5)),
        ("2026-10-01T15:30:00+02:00", datetime.datetime(2026, 10, 1, 13, 30)),
        ("2026-10-01T15:30Z", datetime.datetime(2026, 10, 1, 15, 30)),
    ],
)
def test_a_date_or_time_is_taken_with_its_own_zone_or_utc(text, moment):
    assert moments.past_utc(text) == moment.replace(tzinfo=UTC)


def test_a_date_of_this_machine_s_zone_knows_its_summer(berlin):
    assert moments.past_local("2026-07-01") == datetime.datetime(2026, 6, 30, 22, tzinfo=UTC)
    assert moments.past_local("2026-12-01") == datetime.datetime(2026, 11, 30, 23, tzinfo=UTC)


def test_days_ago_begin_at_midnight_and_hours_do_not():
    now = datetime.datetime.now(UTC)
    assert moments.past_utc("0d") == moments.past_utc("today")
    assert moments.past_utc("7d") == moments.past_utc("today") - datetime.timedelta(days=7)
    assert moments.past_utc("1w") == moments.past_utc("7d")
    assert moments.past_utc("yesterday") == moments.past_utc("1d")
    assert moments.past_utc("today").time() == datetime.time()
    assert abs(moments.past_utc("12h") - (now - datetime.timedelta(hours=12))) < datetime.timedelta(
        seconds=10
    )


@pytest.mark.parametrize(
    "text", ["", "tomorrow", "2026-13-01", "2026-10-32", "999999w", "10/01/2026", "\x00"]
)
@pytest.mark.parametrize("parse", [moments.past_utc, moments.past_local, moments.future])
def test_what_is_no_moment_is_refused(parse, text):
    with pytest.raises(argparse.ArgumentTypeError):
        parse(text)


@pytest.mark.parametrize("text", ["0001-01-01", "9999-12-31"])
def test_the_ends_of_time_are_an_answer_or_a_refusal(text, berlin):
    for parse in (moments.past_utc, moments.past_local):
        with contextlib.suppress(argparse.ArgumentTypeError):
            assert parse(text).tzinfo


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("2026-10", (2026, 10), (2026, 11)),
        ("2026-12", (2026, 12), (2027, 1)),
        ("2024-02", (2024, 2), (2024, 3)),
    ],
)
def test_a_month_ends_where_the_next_begins(text, begin, end):
    assert moments.month_utc(text) == (
        datetime.datetime(*begin, 1, tzinfo=UTC),
        datetime.datetime(*end, 1, tzinfo=UTC),
    )


@pytest.mark.parametrize("text", ["2026", "2026-00", "2026-13", "26-10", "2026-1", "0000-01", "9999-12"])
def test_what_is_no_month_is_refused(text):
    with pytest.raises(argparse.ArgumentTypeError, match="2026-10"):
        moments.month_utc(text)
