"""Reports: each request counts once, whatever was pruned, and only what was asked for is told."""

from __future__ import annotations

import contextlib
import csv
import datetime
import io
import json
import os
import subprocess
import sys
import threading
import time
import uuid

import psycopg
import pytest
from psycopg.rows import class_row

from llmsvc.accounts import retention, usage
from llmsvc.accounts.usage import Period
from llmsvc.cli import session
from llmsvc.database import conninfo as connection_info
from llmsvc.database import schema
from llmsvc.systemd import journal

UTC = datetime.timezone.utc
OCTOBER = Period(datetime.datetime(2026, 10, 1, tzinfo=UTC), datetime.datetime(2026, 11, 1, tzinfo=UTC))


def at(text):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=UTC)


def day(text, **changes):
    return {"created_at": f"{text}+00:00", **changes}


def counts(connection, by, period=OCTOBER, username=None):
    which = usage.Filter(username)
    found = usage.report(connection, by, usage.known(connection, period), which)
    return [(row.username or row.model or row.day, row.requests) for row in found]


def total(connection, period=OCTOBER):
    ((_, requests),) = counts(connection, "total", period)
    return requests


@pytest.fixture
def people(connection):
    """Alice and Bob with a key each, and the hidden user of this machine."""
    connection.execute(
        "INSERT INTO llama_users (username, hidden) VALUES ('alice', false), ('bob', false), ('llmsvc', true)"
    )
    connection.execute(
        "INSERT INTO llama_api_keys (user_id, name, prefix, digest)"
        " SELECT id, 'key-1', 'sk-llm-' || username, sha256(username::bytea) FROM llama_users ORDER BY id"
    )


def test_a_row_counts_once_however_often_it_is_sent(connection, record):
    row = day("2026-10-05T12:00:00", request_id=str(uuid.uuid4()))
    record(row)
    record(row, day("2026-10-05T12:00:01"))
    record(row)
    assert total(connection) == 2


def test_the_sums_are_those_of_the_rows(connection, record):
    record(
        day("2026-10-05T12:00:00"),
        day("2026-10-05T13:00:00", state="error", status_code=500, completion_tokens=0),
        day("2026-10-05T13:00:00", state="client_gone", status_code=499),
        day(
            "2026-10-05T13:00:00",
            state="rejected_rate_limit",
            status_code=429,
            model=None,
            prompt_tokens=None,
            completion_tokens=None,
            duration_ms=3,
            queue_ms=0,
        ),
        day("2026-10-05T14:00:00", state="proxy_killed", status_code=None, duration_ms=None, queue_ms=None),
    )
    (row,) = usage.report(connection, "user", OCTOBER)
    assert (row.requests, row.errors, row.rejected) == (5, 2, 1)
    assert (row.prompt_tokens, row.completion_tokens) == (40, 60)
    assert (row.model_ms, row.queue_ms) == (3000, 600)
    assert (row.request_bytes, row.response_bytes) == (500, 5000)


def test_each_group_is_summed_up_for_itself(connection, record, people):
    front_end = {"username": "bob", "user_id": 2, "key_id": 2, "created_at": "2026-10-06T00:00:00Z"}
    record(
        *[day("2026-10-05T12:00:00")] * 3,
        {**front_end, "end_user": "x@example.org"},
        {**front_end, "end_user": "x@example.org", "model": "gemma3"},
        {**front_end, "end_user": "y@example.org"},
    )
    assert counts(connection, "user") == [("alice", 3), ("bob", 3)]
    assert counts(connection, "model") == [("smollm2", 5), ("gemma3", 1)]
    assert counts(connection, "day") == [(datetime.date(2026, 10, 5), 3), (datetime.date(2026, 10, 6), 3)]
    found = usage.report(connection, "end-user", OCTOBER)
    assert [(row.username, row.end_user, row.requests) for row in found] == [
        ("alice", None, 3),
        ("bob", "x@example.org", 2),
        ("bob", "y@example.org", 1),
    ]
    found = usage.report(connection, "key", OCTOBER)
    assert [(row.key_id, row.key_name, row.key_prefix, row.requests) for row in found] == [
        (1, "key-1", "sk-llm-alice", 3),
        (2, "key-1", "sk-llm-bob", 3),
    ]
    assert counts(connection, "model", username="bob") == [("smollm2", 2), ("gemma3", 1)]
    for which, requests in (
        (usage.Filter(end_user="x@example.org"), [("bob", 2)]),
        (usage.Filter("alice", "x@example.org"), []),
        (usage.Filter(model="gemma3"), [("bob", 1)]),
        (usage.Filter("bob", "x@example.org", "smollm2"), [("bob", 1)]),
    ):
        found = usage.report(connection, "user", OCTOBER, which)
        assert [(row.username, row.requests) for row in found] == requests


async def test_what_one_user_may_know_of_itself_is_the_sums_of_its_own_requests(database, record, people):
    web = {"username": "bob", "user_id": 2, "key_id": 2}
    record(
        day("2026-10-05T23:59:59"),
        day("2026-10-06T00:00:00"),
        day("2026-10-06T01:00:00", model="gemma3", state="error"),
        day("2026-10-06T01:00:00", model=None, state="rejected_limit", prompt_tokens=None, duration_ms=1),
        day("2026-10-07T00:00:00"),
        day("2026-10-06T02:00:00", **web, end_user="x"),
        day("2026-10-06T02:00:00", **web, end_user="y"),
    )
    days = usage.own_days(1, at("2026-10-06T23:00:00"))
    assert usage.own_days(7, at("2026-10-06T23:00:00")) == {**days, "since": datetime.date(2026, 9, 30)}
    async with (
        await psycopg.AsyncConnection.connect(connection_info(database.config)) as connection,
        connection.cursor(row_factory=class_row(usage.OwnUsage)) as cursor,
    ):

        async def own(username, end_user=None):
            wanted = {"username": username, "end_user": end_user, **days}
            return await (await cursor.execute(usage.OWN_USAGE_QUERY, wanted)).fetchall()

        rows = await own("alice")
        assert [(row.model, row.requests, row.errors, row.rejected) for row in rows] == [
            ("gemma3", 1, 1, 0),
            ("smollm2", 1, 0, 0),
            (None, 1, 0, 1),
        ]
        assert {row.day for row in rows} == {datetime.date(2026, 10, 6)}
        assert (rows[1].prompt_tokens, rows[1].completion_tokens) == (10, 20)
        assert (rows[1].model_ms, rows[1].queue_ms) == (1000, 200)
        assert [row.requests for row in await own("bob")] == [2]
        assert [row.requests for row in await own("bob", "x")] == [1]
        assert await own("alice", "x") == await own("eve") == []


def test_the_service_s_own_requests_are_in_no_report(connection, record, people, ready):
    record(day("2026-10-05T12:00:00", username="llmsvc", user_id=3, key_id=3))
    assert total(connection) == 0
    assert ready("requests") == "no requests\n"


def test_a_period_counts_its_beginning_and_not_its_end(connection, record):
    record(
        day("2026-10-04T23:59:59.999999"),
        day("2026-10-05T00:00:00"),
        day("2026-10-05T12:00:00"),
        day("2026-10-05T13:00:00"),
        day("2026-10-06T00:00:00"),
        day("2026-10-06T12:00:00"),
    )
    for since, until, wanted in (
        ("2026-10-05T00:00:00", "2026-10-06T00:00:00", 3),
        ("2026-10-05T12:00:00", "2026-10-06T00:00:00", 2),
        ("2026-10-04T23:59:00", "2026-10-06T12:00:00", 5),
        ("2026-10-05T12:00:00", "2026-10-05T13:00:00", 1),
        ("2026-10-05T12:00:01", "2026-10-07T00:00:00", 3),
        ("2026-10-05T13:00:00", "2026-10-05T13:00:00", 0),
        ("2026-10-05T12:00:00", None, 4),
        ("2026-10-04T00:00:00", None, 6),
    ):
        period = Period(at(since), at(until) if until else None)
        assert total(connection, period) == wanted, period


def test_a_period_of_another_zone_is_taken_as_it_is(connection, record):
    record(day("2026-10-05T22:30:00"), day("2026-10-05T21:30:00"))
    berlin = datetime.timezone(datetime.timedelta(hours=2))
    period = Period(
        datetime.datetime(2026, 10, 6, tzinfo=berlin), datetime.datetime(2026, 10, 7, tzinfo=berlin)
    )
    assert total(connection, period) == 1


def test_pruning_changes_no_sum_and_late_rows_of_pruned_days_count_too(connection, record):
    for number in range(10):
        record(*[day(f"2026-10-{number + 1:02}T12:00:00") for _ in range(number + 1)])
    before = {by: usage.report(connection, by, OCTOBER) for by in usage.GROUPS}
    assert retention.prune(connection, at("2026-10-05"), batch=3) == 10
    assert connection.execute("SELECT count(*), min(created_at) FROM llama_requests").fetchone() == (
        45,
        at("2026-10-05T12:00:00"),
    )
    assert {by: usage.report(connection, by, OCTOBER) for by in usage.GROUPS} == before
    record(day("2026-10-02T12:00:00"))
    assert retention.prune(connection, at("2026-10-05")) == 1
    assert retention.prune(connection, at("2026-10-05")) == 0
    assert total(connection) == 56


def test_a_period_within_pruned_days_is_widened_to_whole_days_and_says_so(connection, record):
    record(day("2026-10-02T06:00:00"), day("2026-10-02T18:00:00"), day("2026-10-03T06:00:00"))
    period = Period(at("2026-10-02T12:00:00"), at("2026-10-03T12:00:00"))
    assert usage.known(connection, period) == period
    assert total(connection, period) == 2
    retention.prune(connection, at("2026-10-04"))
    assert usage.known(connection, period) == Period(at("2026-10-02"), at("2026-10-04"))
    assert total(connection, period) == 3


def test_two_that_prune_while_rows_come_lose_and_double_nothing(database, connection, record):
    for _ in range(20):
        record(*[day("2026-10-02T12:00:00")] * 50)
    removed = []

    def prune():
        with database.connect() as own:
            removed.append(retention.prune(own, at("2026-10-05"), batch=40))

    threads = [threading.Thread(target=prune) for _ in range(2)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        record(*[day("2026-10-02T13:00:00")] * 5)
    for thread in threads:
        thread.join()
    prune()
    assert sum(removed) == total(connection) == 1100
    assert connection.execute("SELECT count(*) FROM llama_requests").fetchone() == (0,)


def test_rows_of_before_the_migration_are_counted(empty_database, monkeypatch):
    everything = schema.known()
    monkeypatch.setattr(
        schema, "known", lambda: {name: everything[name] for name in everything if name < "0003"}
    )
    with empty_database.connect() as connection:
        schema.migrate(connection)
        connection.execute(
            "INSERT INTO llama_requests (request_id, username, user_id, key_id, path, state, request_bytes,"
            " created_at) SELECT gen_random_uuid(), 'alice', 1, 1, '/', 'ok', 1,"
            " timestamptz '2026-10-01 12:00Z' + i * interval '1 day' FROM generate_series(0, 4) i"
        )
        monkeypatch.setattr(schema, "known", lambda: everything)
        schema.migrate(connection)
        assert [requests for _, requests in counts(connection, "day")] == [1] * 5
        assert total(connection) == 5


def test_a_request_is_the_last_use_of_its_key_and_wakes_no_proxy(database, connection, record, people):
    with database.connect() as listener:
        listener.execute("LISTEN llama_keys")
        record(day("2026-10-05T12:00:00"), day("2026-10-05T13:00:00", user_id=2, key_id=2))
        record(day("2026-10-05T11:00:00"))
        listener.execute("SELECT 1")
        assert list(listener.notifies(timeout=0)) == []
    assert connection.execute("SELECT id, last_used_at FROM llama_api_keys ORDER BY id").fetchall() == [
        (1, at("2026-10-05T12:00:00")),
        (2, at("2026-10-05T13:00:00")),
        (3, None),
    ]


def test_rows_do_not_wait_for_somebody_who_is_changing_a_key(database, connection, record, people):
    with database.connect() as other, other.transaction():
        other.execute("UPDATE llama_api_keys SET revoked_at = now() WHERE id = 1")
        record(day("2026-10-05T12:00:00"), day("2026-10-05T12:00:00", user_id=2, key_id=2))
    assert total(connection) == 2
    used = connection.execute("SELECT last_used_at IS NOT NULL FROM llama_api_keys ORDER BY id").fetchall()
    assert used == [(False,), (True,), (False,)]


# ---------------------------------------------------------------------------------------------- usage, audit


def test_usage_is_a_table_with_bars_a_total_and_the_zone(ready, record):
    record(
        *[day("2026-10-05T12:00:00")] * 3,
        day("2026-10-05T12:00:00", username="bob", state="error"),
        day("2026-11-05T12:00:00", username="eve"),
    )
    title, headers, *lines = ready("usage", "--month", "2026-10").splitlines()
    assert title == "2026-10-01 00:00 to 2026-11-01 00:00, all times in UTC"
    assert " ".join(headers.split()) == (
        "USER REQUESTS ERRORS REJECTED TOKENS IN TOKENS OUT ON THE MODEL IN THE QUEUE SHARE OF TIME"
    )
    assert [" ".join(line.split()) for line in lines] == [
        "alice 3 0 0 30 60 3.0 s 600 ms 75% ███████████████",
        "bob 1 1 0 10 20 1.0 s 200 ms 25% █████",
        "total 4 1 0 40 80 4.0 s 800 ms",
    ]


def test_usage_as_json_and_csv_has_the_same_numbers(ready, record):
    record(
        *[day("2026-10-05T12:00:00")] * 2,
        day("2026-10-06T12:00:00", username="web", end_user="=cmd|'/c calc'!A1"),
    )
    data = ready.json("usage", "--by", "day", "--month", "2026-10")
    assert data["rows"][0] == {
        "day": "2026-10-05",
        "requests": 2,
        "errors": 0,
        "rejected": 0,
        "prompt_tokens": 20,
        "completion_tokens": 40,
        "model_ms": 2000,
        "queue_ms": 400,
    }
    assert (data["by"], data["time_zone"], data["total"]["requests"]) == ("day", "UTC", 3)
    assert (data["since"], data["until"]) == ("2026-10-01T00:00:00+00:00", "2026-11-01T00:00:00+00:00")
    rows = list(csv.DictReader(io.StringIO(ready("usage", "--by", "day", "--month", "2026-10", "--csv"))))
    assert [{key: str(value) for key, value in row.items()} for row in data["rows"]] == rows
    rows = list(
        csv.DictReader(io.StringIO(ready("usage", "--by", "end-user", "--since", "2026-10-01", "--csv")))
    )
    assert [row["end_user"] for row in rows] == ["", "'=cmd|'/c calc'!A1"]


def test_usage_without_a_period_is_that_of_the_last_30_days(ready, record):
    now = datetime.datetime.now(UTC)
    record(
        {"created_at": now - datetime.timedelta(days=29)},
        {"created_at": now - datetime.timedelta(days=32)},
        {},
    )
    assert ready.json("usage")["total"]["requests"] == 2
    assert ready.json("usage", "--since", "12h")["total"]["requests"] == 1
    assert ready.json("usage", "--since", "40d", "--user", "alice")["total"]["requests"] == 3
    assert ready("usage", "--user", "nobody").endswith("user nobody\nno requests\n")
    title = ready("usage", "--end-user", "x", "--model", "gemma3").splitlines()[0]
    assert title.endswith(", all times in UTC, end user x, model gemma3")


def test_a_report_that_makes_no_sense_is_refused_with_a_hint(ready):
    for arguments in (
        ["--month", "2026-13"],
        ["--month", "2026-10", "--since", "1d"],
        ["--since", "2026-10-02", "--until", "2026-10-02"],
        ["--since", "soon"],
        ["--by", "moon"],
        ["--user", "\udcff"],
    ):
        assert "\nhint: " in ready("usage", *arguments, code=2)
    assert ready.json("usage", "--csv", code=2)["error"]["hint"] == "choose one of them"


def test_audit_tells_who_changed_what_in_a_period(ready, database):
    ready("user", "add", "alice")
    ready("user", "add", "bob")
    with database.connect() as connection:
        connection.execute(
            "UPDATE llama_audit SET at = now() - interval '40 days', actor = 'eve' WHERE id = 1"
        )
    title, headers, line = ready("audit").splitlines()
    assert "all times in" in title
    assert headers.split() == ["TIME", "ACTOR", "VERB", "OBJECT"]
    assert line.split()[-3:] == ["user", "add", "bob"]
    assert [row["object"] for row in ready.json("audit", "--since", "60d")] == ["alice", "bob"]
    assert [row["object"] for row in ready.json("audit", "--since", "60d", "--actor", "eve")] == ["alice"]
    assert [row["object"] for row in ready.json("audit", "--since", "60d", "--until", "30d")] == ["alice"]
    rows = list(csv.DictReader(io.StringIO(ready("audit", "--csv"))))
    assert [(row["verb"], row["object"]) for row in rows] == [("user add", "bob")]
    assert ready("audit", "--until", "60d", code=2).startswith("llmsvc: --until is not after --since\nhint: ")


# -------------------------------------------------------------------------------------------------- requests


def test_requests_are_shown_the_newest_last(ready, record):
    record(
        day("2026-10-05T12:00:02", model="gemma3", state="rejected_queue_full", status_code=503),
        day("2026-10-05T12:00:00"),
        day("2026-10-05T12:00:01", username="web", end_user="x@example.org", state="error", status_code=500),
    )
    lines = ready("requests").splitlines()
    assert lines[0].split()[:5] == ["TIME", "USER", "MODEL", "STATE", "STATUS"]
    assert [line.split()[2] for line in lines[1:]] == ["alice", "web", "alice"]
    assert "web (x@example.org)" in lines[2]
    assert len(ready("requests", "--limit", "2").splitlines()) == 3
    wanted = {
        ("--user", "web"): ["error"],
        ("--end-user", "x@example.org"): ["error"],
        ("--end-user", "x@example.org", "--user", "alice"): [],
        ("--model", "gemma3"): ["rejected_queue_full"],
        ("--state", "error"): ["error"],
        ("--state", "rejected"): ["rejected_queue_full"],
        ("--state", "rejected_queue_full"): ["rejected_queue_full"],
        ("--state", "ok", "--user", "alice"): ["ok"],
        ("--limit", "1"): ["rejected_queue_full"],
    }
    for arguments, states in wanted.items():
        assert [row["state"] for row in ready.json("requests", *arguments)] == states
    (row,) = ready.json("requests", "--user", "web")
    assert (row["user"], row["end_user"], row["client_addr"]) == ("web", "x@example.org", "192.0.2.1")
    assert row["created_at"] == "2026-10-05T12:00:01+00:00"
    assert uuid.UUID(row["request_id"])


def test_requests_that_cannot_be_are_refused(ready):
    for arguments in (["--state", "fine"], ["--limit", "-1"], ["--limit", "9999999999"]):
        assert "\nhint: " in ready("requests", *arguments, code=2)


@contextlib.contextmanager
def following(database, *arguments):
    """Lines of `llmsvc requests --follow --json` as a process of its own."""
    code = (
        "import sys; from pathlib import Path\n"
        "from llmsvc import config, paths; from llmsvc.cli.main import main\n"
        "paths.CONFIG_ENV, paths.PROXY_USER = Path(sys.argv[1]), sys.argv[2]\n"
        "raise SystemExit(main(['requests', '--follow', '--json', *sys.argv[3:]]))"
    )
    user = "nobody" if os.geteuid() == 0 else os.environ.get("USER", "")
    process = subprocess.Popen(
        [sys.executable, "-c", code, database.config_env, user, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate()


def test_following_tells_each_request_once_in_the_order_in_which_they_ended(database, record):
    record(day("2026-10-05T12:00:00", path="/0"), day("2026-10-05T12:00:01", path="/1"))
    with following(database, "--limit", "1") as process:

        def path():
            return json.loads(process.stdout.readline())["path"]

        assert path() == "/1"
        record(day("2026-10-05T11:00:00", path="/2"), day("2026-10-05T13:00:00", path="/3"))
        record(day("2026-10-05T09:00:00", path="/4"))
        assert [path() for _ in range(3)] == ["/2", "/3", "/4"]


def test_following_goes_on_after_the_connection_was_lost(database, connection, record):
    with following(database, "--limit", "0") as process:
        deadline = time.monotonic() + 20
        ended = []
        while not ended and time.monotonic() < deadline:
            ended = connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%seq >%'"
            ).fetchall()
        assert ended
        assert process.stderr.readline().endswith("; trying again\n")
        record(day("2026-10-05T12:00:00", path="/after"))
        assert json.loads(process.stdout.readline())["path"] == "/after"


def test_a_change_outside_of_the_database_is_in_the_audit(ready, monkeypatch):
    session.note("model use", "gemma3")
    assert [(row["verb"], row["object"]) for row in ready.json("audit")] == [("model use", "gemma3")]


def test_a_change_that_the_audit_cannot_take_is_in_the_journal(cli, monkeypatch):
    notes = []
    monkeypatch.setattr(journal, "note", lambda *about: notes.append(about))
    session.note("model use", "gemma3")
    ((identifier, text, _),) = notes
    assert identifier == "llmsvc"
    assert ", model use gemma3: the database does not have the tables" in text
