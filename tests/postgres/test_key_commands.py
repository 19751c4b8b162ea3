"""Keys that end by themselves, are replaced, or are found somewhere; and users whose name has to go."""

from __future__ import annotations

import datetime
import io
import json
import sys
import threading

import pytest

from llmsvc import paths
from llmsvc.accounts import directory, erasing, keys
from llmsvc.cli import session
from llmsvc.errors import UsageError

UTC = datetime.timezone.utc


def usable(connection):
    return {record.digest for record in directory.load(connection)}


def works(connection, key):
    return keys.digest(keys.read_pepper(paths.PEPPER), key) in usable(connection)


def seconds_left(key):
    left = datetime.datetime.fromisoformat(key["expires_at"]) - datetime.datetime.now(UTC)
    return left.total_seconds()


@pytest.fixture
def typed(monkeypatch):
    """Sets what comes on standard input."""

    def set_input(text):
        monkeypatch.setattr(sys, "stdin", io.StringIO(text))

    return set_input


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_key_ends_when_it_was_said(ready, connection):
    key = ready.json("user", "add", "alice", "--expires", "30d")["key"]
    assert 30 * 86400 - 60 < seconds_left(key) <= 30 * 86400
    new = ready.json("key", "add", "alice", "--name", "laptop", "--expires", "12h")
    assert 12 * 3600 - 60 < seconds_left(new["key"]) <= 12 * 3600
    assert works(connection, new["api_key"])
    year = datetime.datetime.now().year + 1
    assert f"which expires {year}-01-01 00:00:" in ready("key", "add", "alice", "--expires", f"{year}-01-01")
    assert "expires" not in ready("key", "add", "alice", "--name", "ever")
    connection.execute("UPDATE llama_api_keys SET expires_at = now() - interval '1 s' WHERE name = 'laptop'")
    connection.execute("UPDATE llama_api_keys SET last_used_at = '2026-10-05 12:00Z' WHERE name = 'ever'")
    assert not works(connection, new["api_key"])
    assert {key["name"]: key["state"] for key in ready.json("key", "list")} == {
        "key-1": "active",
        "laptop": "expired",
        "key-2": "active",
        "ever": "active",
    }
    headers, *_, last = ready("key", "list", "alice").splitlines()
    assert "STATE" in headers and "LAST USED" in headers and "EXPIRES" in headers
    used = datetime.datetime(2026, 10, 5, 12, tzinfo=UTC).astimezone()
    assert " active " in last and last.endswith(f"  {used:%Y-%m-%d %H:%M}  -")


@pytest.mark.parametrize("when", ["2020-01-01", "0d", "soon", "-3d", "3", "999999w"])
def test_a_key_that_would_not_work_is_not_made(ready, when):
    assert ready("key", "add", "alice", f"--expires={when}", code=2).startswith(
        "llmsvc: argument --expires: "
    )


def test_a_disabled_user_s_keys_say_so_and_revoked_ones_are_shown_when_asked_for(ready):
    ready("user", "add", "alice")
    ready("key", "add", "alice", "--name", "laptop")
    ready("key", "revoke", "alice/laptop")
    ready("user", "disable", "alice")
    assert [(key["name"], key["state"]) for key in ready.json("key", "list", "--all")] == [
        ("key-1", "disabled"),
        ("laptop", "revoked"),
    ]
    assert [key["name"] for key in ready.json("key", "list")] == ["key-1"]


def test_a_rotated_key_works_beside_the_new_one_until_the_grace_is_over(ready, connection):
    first = ready.json("user", "add", "alice")
    old_id = first["key"]["id"]
    data = ready.json("key", "rotate", "alice/key-1", "--grace", "2h")
    assert data["key"]["name"] == "key-1"
    assert data["key"]["expires_at"] is None
    assert data["old_key"]["name"] == f"key-1.old-{old_id}"
    assert 7200 - 60 < seconds_left(data["old_key"]) <= 7200
    assert works(connection, first["api_key"]) and works(connection, data["api_key"])
    connection.execute("UPDATE llama_api_keys SET expires_at = expires_at - interval '2 h'")
    assert not works(connection, first["api_key"]) and works(connection, data["api_key"])
    (row,) = connection.execute("SELECT verb, object FROM llama_audit ORDER BY id DESC LIMIT 1").fetchall()
    assert row == ("key rotate", f"alice/key-1 ({first['key']['prefix']})")
    text = ready("key", "rotate", str(data["key"]["id"]))
    assert f"The old key {data['key']['prefix']}… (alice/key-1.old-{data['key']['id']}) works until " in text


def test_a_rotation_without_grace_ends_the_old_key_at_once(ready, connection):
    first = ready("user", "add", "alice", "-q").strip()
    second = ready("key", "rotate", "key-1", "--grace", "0h", "-q").strip()
    assert not works(connection, first) and works(connection, second)
    assert "is revoked" in ready("key", "rotate", "1", code=5)


def test_a_rotated_key_lives_as_long_as_the_old_one_was_made_for(ready, connection):
    ready("user", "add", "alice", "--expires", "30d")
    connection.execute(
        "UPDATE llama_api_keys SET created_at = created_at - interval '29 d',"
        " expires_at = expires_at - interval '29 d'"
    )
    data = ready.json("key", "rotate", "key-1", "--grace", "7d")
    assert 30 * 86400 - 60 < seconds_left(data["key"]) <= 30 * 86400 + 60
    assert seconds_left(data["old_key"]) <= 86400  # the grace makes no life longer
    data = ready.json("key", "rotate", "alice/key-1", "--expires", "1d")
    assert seconds_left(data["key"]) <= 86400


def test_a_name_alone_is_enough_where_one_key_has_it(ready):
    ready("user", "add", "alice")
    ready("user", "add", "bob")
    ready("key", "add", "bob", "--name", "laptop")
    assert ready.json("key", "rotate", "laptop")["key"]["username"] == "bob"
    assert "there are several keys key-1" in ready("key", "revoke", "key-1", code=5)


def test_whois_tells_owner_state_and_where_a_key_was_used(ready, record, typed):
    data = ready.json("user", "add", "alice")
    key, key_id = data["api_key"], data["key"]["id"]
    mine = {"username": "alice", "user_id": 1, "key_id": key_id}
    record(
        {**mine, "created_at": "2026-10-05T12:00:00Z"},
        {**mine, "created_at": "2026-10-05T13:00:00Z", "client_addr": "2001:db8::1"},
        {**mine, "created_at": "2026-10-05T14:00:00Z"},
        {**mine, "key_id": 99, "client_addr": "198.51.100.1"},
    )
    typed(f'export OPENAI_API_KEY="{key}"\n')
    found = ready.json("key", "whois", "-")
    assert (found["username"], found["name"], found["state"], found["prefix"]) == (
        "alice",
        "key-1",
        "active",
        keys.display_prefix(key),
    )
    assert found["last_used_at"] == "2026-10-05T14:00:00+00:00"
    assert [(each["address"], each["requests"]) for each in found["addresses"]] == [
        ("192.0.2.1", 2),
        ("2001:db8::1", 1),
    ]
    ready("user", "remove", "alice")
    typed(key)
    text = ready("key", "whois", "-")
    assert "alice (user)" in text and "revoked" in text and "192.0.2.1: 2 of its last requests" in text
    assert key not in text


def test_whois_tells_a_typo_from_an_unknown_key(ready, typed):
    good = ready("user", "add", "alice", "-q").strip()
    other = keys.generate()
    typed(other)
    assert "not one of this server's" in ready("key", "whois", "-", code=3)
    for bad in (good[:-1], good[:20] + ("a" if good[20] != "a" else "b") + good[21:], "", "ü", good + "x"):
        typed(bad)
        assert "checksum is wrong" in ready("key", "whois", "-", code=2)


@pytest.mark.parametrize("before", [[], ["-"]])
def test_a_key_as_an_argument_is_refused_and_not_repeated(ready, before):
    key = keys.generate()
    text = ready("key", "whois", *before, key, code=2)
    assert "never from the command line" in text and "best revoked" in text
    assert key[10:] not in text
    assert key[10:] not in json.dumps(ready.json("key", "whois", *before, key, code=2))


def test_whois_without_the_pepper_says_so_instead_of_unknown_key(ready, typed):
    key = ready("user", "add", "alice", "-q")
    paths.PEPPER.write_text(keys.generate_pepper())
    typed(key)
    assert "not the pepper" in ready("key", "whois", "-", code=78)


# ------------------------------------------------------------------------------------------------------ erase


def everything(database):
    return database.cluster.run("pg_dump", "--data-only", "--inserts", database.name)


def test_an_erased_user_s_name_is_nowhere_and_its_numbers_stay(ready, record, database, connection):
    ready("user", "add", "carola")
    ready("user", "add", "carola2")
    ready("key", "add", "carola", "--name", "carola-laptop")
    ready("user", "set", "carola", "--rate-limit", "5")
    ready("key", "revoke", "carola/carola-laptop")
    mine = {"username": "carola", "user_id": 1, "client_addr": "203.0.113.9"}
    record(mine, mine, {"username": "carola2", "user_id": 2})
    result = ready.json("user", "remove", "carola", "--erase", "--yes")
    assert result == {"name": "erased-1", "state": "removed"}
    dump = everything(database)
    assert dump.count("carola") == dump.count("carola2") > 0
    assert "203.0.113.9" not in dump
    assert [(row["user"], row["requests"]) for row in ready.json("usage")["rows"]] == [
        ("erased-1", 2),
        ("carola2", 1),
    ]
    objects = [row["object"] for row in ready.json("audit")]
    assert objects[0] == "erased-1"
    assert objects[1:4] == ["carola2", "erased-1", "erased-1 rate_limit=5"]
    assert objects[4].startswith("erased-1 (sk-llm-")
    assert objects[5] == "erased-1"
    # rows that were in the spool meanwhile
    record(mine)
    assert everything(database).count("carola") == dump.count("carola")
    assert ready.json("usage")["rows"][0]["requests"] == 3
    assert [request["user"] for request in ready.json("requests", "--user", "erased-1")] == ["erased-1"] * 3
    assert "there is no user" in ready("user", "remove", "carola", "--erase", "--yes", code=3)


def test_rows_that_come_while_a_user_is_erased_are_neither_lost_nor_under_the_old_name(
    ready, record, database
):
    ready("user", "add", "alice")
    stop = threading.Event()
    written = []

    def write():
        while not stop.is_set():
            record(*[{"user_id": 1}] * 20)
            written.append(20)

    thread = threading.Thread(target=write)
    thread.start()
    try:
        while len(written) < 3:
            stop.wait(0.01)
        with database.connect() as connection, connection.transaction():
            erasing.erase(connection, "alice")
        begun = len(written)
        while len(written) < begun + 3:
            stop.wait(0.01)
    finally:
        stop.set()
        thread.join()
    with database.connect() as connection:
        assert connection.execute("SELECT DISTINCT username FROM llama_requests").fetchall() == [
            ("erased-1",)
        ]
    (row,) = ready.json("usage")["rows"]
    assert (row["user"], row["requests"]) == ("erased-1", sum(written))


def test_an_anonymous_name_is_nobody_else_s_before_or_after(ready, connection):
    ready("user", "add", "erased-2")
    ready("user", "add", "alice")
    assert ready.json("user", "remove", "alice", "--erase", "--yes")["name"] == "erased-2-2"
    assert "never used again" in ready("user", "add", "erased-2-2", code=5)


def test_a_user_that_was_removed_before_can_still_be_erased(ready, connection):
    ready("user", "add", "alice")
    ready("user", "remove", "alice")
    removed = connection.execute("SELECT removed_at FROM llama_users").fetchone()
    assert ready.json("user", "remove", "alice", "--erase", "--yes")["name"] == "erased-1"
    assert connection.execute("SELECT removed_at FROM llama_users").fetchone() == removed
    ready("user", "add", "alice")  # nothing of the first one is left to mix it up with


def test_erasing_asks_on_a_terminal_and_refuses_without_one(ready, connection, monkeypatch, capsys):
    ready("user", "add", "alice")
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\n"))
    assert ready("user", "remove", "alice", "--erase", code=2).endswith("hint: add --yes to do it\n")
    monkeypatch.setattr(sys, "stdin", Terminal("\n"))
    assert "nothing was changed" in ready("user", "remove", "alice", "--erase", code=2)
    assert [user["name"] for user in ready.json("user", "list")] == ["alice"]
    monkeypatch.setattr(sys, "stdin", Terminal("y\n"))
    assert "erased-1 everywhere" in ready("user", "remove", "alice", "--erase")
    assert "there is no user 'bob'" in ready("user", "remove", "bob", "--erase", code=3)
    with pytest.raises(UsageError):
        monkeypatch.setattr(sys, "stdin", Terminal("no\n"))
        session.confirm("Really?", yes=False)
    assert "Really? [y/N]" in capsys.readouterr().err


def test_prune_removes_what_is_too_old_and_says_how_much(ready, record, database):
    now = datetime.datetime.now(UTC)
    record(*[{"created_at": now - datetime.timedelta(days=days)} for days in (0, 89, 92, 120)])
    assert ready("db", "prune", "--dry-run").startswith("would remove 2 requests from before ")
    assert ready.json("db", "prune", "--dry-run")["rows"] == 2
    assert len(ready.json("requests")) == 4
    assert ready.json("db", "prune")["rows"] == 2
    assert ready("db", "prune").startswith("removed 0 requests")
    assert len(ready.json("requests")) == 2
    assert ready.json("usage", "--since", "200d")["total"]["requests"] == 4
    assert [row["verb"] for row in ready.json("audit")] == ["db prune"]
    with paths.CONFIG_ENV.open("a") as file:
        file.write("LLAMA_LEDGER_RETENTION_DAYS=0\n")
    assert "keeps all requests" in ready("db", "prune")
