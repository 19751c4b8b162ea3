"""Points in time and spans as people type them: 30d, 12h, 2026-10-01, 2026-10-01T15:30, today."""

from __future__ import annotations

import argparse
import datetime
import re

UTC = datetime.timezone.utc
SPAN_RULE = "a number with m, h, d or w, such as 30d"
_SPAN = re.compile(r"([0-9]{1,6})(m|h|d|w)\Z")
_MONTH = re.compile(r"([0-9]{4})-([0-9]{2})\Z")
_UNITS = {"m": "minutes", "h": "hours", "d": "days", "w": "weeks"}


def span(text: str) -> datetime.timedelta:
    """`90m`, `12h`, `30d` or `2w`; for argparse."""
    found = _SPAN.match(text)
    if not found:
        raise argparse.ArgumentTypeError(f"must be {SPAN_RULE}, not {text[:30]!r}")
    return datetime.timedelta(**{_UNITS[found[2]]: int(found[1])})


def future(text: str) -> datetime.datetime:
    """A span from now, or a date or time of this machine's zone that is still to come; for argparse."""
    now = datetime.datetime.now(UTC)
    try:
        moment = now + span(text) if _SPAN.match(text) else _absolute(text, None)
    except OverflowError:
        moment = None
    if moment is None:
        raise argparse.ArgumentTypeError(
            f"must be {SPAN_RULE}, or a date such as 2027-01-01, not {text[:30]!r}"
        )
    if moment <= now:
        raise argparse.ArgumentTypeError(f"{text[:30]!r} is not in the future")
    return moment


def past(text: str, zone: datetime.tzinfo | None) -> datetime.datetime:
    """`today`, a span before now, or a date or time of `zone`.

    Days and weeks before now begin at midnight, hours and minutes do not.

    :param zone: None for this machine's
    :raises ArgumentTypeError: it is none of these
    """
    now = datetime.datetime.now(zone)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    try:
        if text == "today":
            return _aware(midnight, zone)
        if text == "yesterday":
            return _aware(midnight - datetime.timedelta(days=1), zone)
        if _SPAN.match(text):
            start = midnight if text[-1] in "dw" else now
            return _aware(start - span(text), zone)
        moment = _absolute(text, zone)
    except OverflowError:
        moment = None
    if moment is None:
        raise argparse.ArgumentTypeError(
            f"must be a date (2026-10-01), a time (2026-10-01T15:30), 'today' or {SPAN_RULE} "
            f"for so long ago, not {text[:30]!r}"
        )
    return moment


def past_utc(text: str) -> datetime.datetime:
    """past() in UTC, for argparse."""
    return past(text, UTC)


def past_local(text: str) -> datetime.datetime:
    """past() in this machine's zone, for argparse."""
    return past(text, None)


def month_utc(text: str) -> tuple[datetime.datetime, datetime.datetime]:
    """Begin and end of a month, `2026-10`, in UTC; for argparse."""
    found = _MONTH.match(text)
    if not found or not 1 <= int(found[2]) <= 12 or not 1970 <= int(found[1]) <= 9998:
        raise argparse.ArgumentTypeError(f"must be a month such as 2026-10, not {text[:30]!r}")
    year, month = int(found[1]), int(found[2])
    return (
        datetime.datetime(year, month, 1, tzinfo=UTC),
        datetime.datetime(year + month // 12, month % 12 + 1, 1, tzinfo=UTC),
    )


def _absolute(text: str, zone: datetime.tzinfo | None) -> datetime.datetime | None:
    # fromisoformat() of Python 3.10 knows no Z
    plain = text[:-1] + "+00:00" if text.endswith("Z") else text
    try:
        return _aware(datetime.datetime.fromisoformat(plain), zone)
    except (ValueError, OverflowError):
        return None


def _aware(moment: datetime.datetime, zone: datetime.tzinfo | None) -> datetime.datetime:
    """The moment with its own zone, else with `zone`, or this machine's at that time of the year."""
    if moment.tzinfo:
        return moment
    return moment.replace(tzinfo=zone) if zone else moment.astimezone()
