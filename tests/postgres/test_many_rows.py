"""What keeps ten million rows usable: no report reads them all, and each tells what the rows themselves say.

tests/bench/ledger_rows.py measures it.
"""

from __future__ import annotations

import datetime

import psycopg
import pytest
from psycopg.rows import tuple_row

from llmsvc.accounts import keys, requests, retention, usage, whois
from llmsvc.accounts.requests import Filter
from llmsvc.accounts.usage import Period
from tests.bench import ledger_rows

UTC = datetime.timezone.utc
ROWS, DAYS, USERS, END_USERS = 40_000, 90, 40, 100
RARE = "person99@example.org"

NAIVE = """
SELECT {columns}, count(*), count(*) FILTER (WHERE state IN ('error', 'timeout', 'switched', 'proxy_killed')),
       count(*) FILTER (WHERE state LIKE 'rejected%%'), coalesce(sum(prompt_tokens), 0),
       coalesce(sum(completion_tokens), 0),
       coalesce(sum(greatest(duration_ms - queue_ms, 0)) FILTER (WHERE state NOT LIKE 'rejected%%'), 0),
       coalesce(sum(queue_ms), 0), sum(request_bytes), sum(response_bytes)
  FROM llama_requests
 WHERE created_at >= %(since)s AND (%(until)s::timestamptz IS NULL OR created_at < %(until)s)
   AND (%(username)s::text IS NULL OR username = %(username)s)
   AND (%(end_user)s::text IS NULL OR end_user = %(end_user)s)
   AND (%(model)s::text IS NULL OR model = %(model)s)
 GROUP BY {columns}
"""
COLUMNS = {
    "user": "username",
    "end-user": "username, end_user",
    "model": "model",
    "day": "(created_at AT TIME ZONE 'UTC')::date",
    "key": "username, key_id",
}
FIELDS = {
    "user": ("username",),
    "end-user": ("username", "end_user"),
    "model": ("model",),
    "day": ("day",),
    "key": ("username", "key_id"),
}


class Explaining(psycopg.Cursor):
    """Notes the plan of each statement before it runs it."""

    plans: list[str] = []

    def execute(self, query, params=None, **options):
        text = query if isinstance(query, bytes) else query.encode()
        if text.lstrip().startswith((b"SELECT", b"WITH", b"DELETE", b"UPDATE")):
            with psycopg.Cursor(self.connection, row_factory=tuple_row) as cursor:
                cursor.execute(b"EXPLAIN " + text, params)
                self.plans.append("\n".join(line for (line,) in cursor.fetchall()))
        return super().execute(query, params, **options)


@pytest.fixture
def many(connection):
    """The connection to a database with many rows; their plans are in Explaining.plans."""
    about = {
        "rows": ROWS,
        "users": USERS,
        "end_users": END_USERS,
        "seconds": DAYS * 86400.0,
        "share": 0.3,
        "start": 0,
        "end": ROWS - 1,
    }
    connection.execute("SELECT setseed(0.25)")
    connection.execute(ledger_rows.USERS, [USERS])
    connection.execute(ledger_rows.KEYS)
    connection.execute(ledger_rows.ROWS, about)
    connection.execute("ANALYZE")
    connection.cursor_factory = Explaining
    Explaining.plans.clear()
    return connection


def read_all(what):
    """Whether any plan so far reads a whole table of that name."""
    return any(f"Seq Scan on {what}" in plan for plan in Explaining.plans)


def test_reports_are_right_and_read_no_more_rows_than_they_must(many):
    now = datetime.datetime.now(UTC)
    midnight = now.replace(hour=0, minute=0, second=0, microsecond=0)
    whole = Period(midnight - datetime.timedelta(days=30))
    parts = Period(now - datetime.timedelta(hours=700), now - datetime.timedelta(hours=30))
    filters = (usage.ANY, usage.Filter("user-7"), usage.Filter("user-1", "person3@example.org", "mistral"))
    for period in (whole, parts):
        for by, columns in COLUMNS.items():
            for which in filters:
                found = {
                    tuple(getattr(row, field) for field in FIELDS[by]): tuple(
                        getattr(row, name) for name in usage._SUMS
                    )
                    for row in usage.report(many, by, period, which)
                }
                wanted = {"since": period.since, "until": period.until, **vars(which)}
                size = len(FIELDS[by])
                with psycopg.Cursor(many) as cursor:
                    rows = cursor.execute(NAIVE.format(columns=columns).encode(), wanted).fetchall()
                assert found == {row[:size]: row[size:] for row in rows}, (by, period, which)
                assert which is not usage.ANY or len(found) > 1
        if period is whole:
            assert not any("llama_requests" in plan for plan in Explaining.plans)
    assert any("llama_requests" in plan for plan in Explaining.plans)
    assert not read_all("llama_requests")


def test_what_one_user_used_is_found_by_its_name(many):
    many.execute(
        usage.OWN_USAGE_QUERY, {"username": "user-7", "end_user": None, **usage.own_days(30)}
    ).fetchall()
    (plan,) = Explaining.plans
    assert "llama_usage_daily_username" in plan


def test_the_latest_requests_of_any_kind_are_found_by_an_index(many):
    everything = requests.latest(many, Filter(), ROWS)
    assert len(everything) == ROWS
    for which, chosen, index in (
        (Filter(), lambda row: True, "created_at"),
        (Filter("user-40"), lambda row: row.username == "user-40", ""),
        (Filter(end_user=RARE), lambda row: row.end_user == RARE, "end_user"),
        (Filter(model="gemma3"), lambda row: row.model == "gemma3", "created_at"),
        (Filter(model="none"), lambda row: False, "created_at"),
        (Filter(state="error"), lambda row: row.state == "error", "not_ok"),
        (Filter(state="timeout"), lambda row: False, "not_ok"),
        (Filter(state="rejected"), lambda row: row.state.startswith("rejected"), ""),
    ):  # fmt: skip
        Explaining.plans.clear()
        found = requests.latest(many, which, 20)
        assert found == [row for row in everything if chosen(row)][-20:], which
        assert not read_all("llama_requests") and f"llama_requests_{index}" in Explaining.plans[0], which
        assert index != "not_ok" or "Index Cond: (state = " in Explaining.plans[0]
    assert requests.after(many, Filter(), everything[-1].seq - 1, 10) == everything[-1:]
    assert not read_all("llama_requests")


def test_upkeep_and_whois_read_no_more_rows_than_they_must(many):
    key = keys.generate()
    many.execute("UPDATE llama_api_keys SET digest = %s WHERE id = 7", [keys.digest(bytes(32), key)])
    owner, addresses = whois.look_up(many, bytes(32), key)
    assert (owner.username, len(addresses)) == ("user-7", 1)
    before = retention.boundary(DAYS - 1)
    due = retention.due(many, before)
    assert 0 < due < ROWS / 10
    assert retention.prune(many, before, batch=due // 3) == due
    assert not read_all("llama_requests")
