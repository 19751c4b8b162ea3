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


# ------------------------------------------------------------------------------------------------- front ends


def test_a_front_end_s_key_says_so_wherever_it_is_shown_and_stays_one_when_it_is_rotated(
    ready, connection, typed
):
    ready("user", "add", "webui")
    assert "ON BEHALF OF" not in ready("key", "list")
    text = ready("key", "add", "webui", "--on-behalf-of", "X-OpenWebUI-User-Email")
    assert text.startswith(
        "key 'key-2' of webui, in whose requests x-openwebui-user-email says who is asking:"
    )
    (secret,) = {word for word in text.split() if keys.well_formed(word)}
    headers, first, second = ready("key", "list", "webui").splitlines()
    assert headers.endswith("ON BEHALF OF")
    assert first.split()[-1] == "-" and second.split()[-1] == "x-openwebui-user-email"
    typed(secret)
    assert "x-openwebui-user-email" in ready("key", "whois", "-")
    typed(secret)
    assert ready.json("key", "whois", "-")["on_behalf_of"] == "x-openwebui-user-email"
    rotated = ready.json("key", "rotate", "webui/key-2")
    assert rotated["key"]["on_behalf_of"] == "x-openwebui-user-email"
    assert sorted(str(record.on_behalf_of) for record in directory.load(connection)) == [
        "None",
        "x-openwebui-user-email",
        "x-openwebui-user-email",
    ]
    assert ("key add", "webui (on_behalf_of=x-openwebui-user-email)") in [
        (row["verb"], row["object"]) for row in ready.json("audit")
    ]


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("", "cannot be the name of a header"),
        ("X-User:", "cannot be the name of a header"),
        ("X User", "cannot be the name of a header"),
        ("X-Üser", "cannot be the name of a header"),
        ("x" * 65, "cannot be the name of a header"),
        ("x-user\n", "cannot be the name of a header"),
        ("Authorization", "means something else"),
        ("HOST", "means something else"),
        ("Cookie", "means something else"),
        ("X-Request-Id", "means something else"),
        ("X-Forwarded-For", "means something else"),
        ("Content-Type", "means something else"),
        ("x-stainless-lang", "means something else"),
        ("Transfer-Encoding", "means something else"),
    ],
)
def test_a_header_that_cannot_say_who_is_asking_is_refused(ready, connection, header, said):
    ready("user", "add", "webui")
    error = ready("key", "add", "webui", f"--on-behalf-of={header}", code=2)
    assert said in error and "\nhint: " in error
    assert len(directory.load(connection)) == 1
    assert [row["verb"] for row in ready.json("audit")] == ["user add"]


@pytest.mark.parametrize("header", ["X-User", "Remote-User", "x_user", "X-Goog-Authenticated-User-Email"])
def test_a_header_that_front_ends_use_is_taken(ready, connection, header):
    ready("user", "add", "webui")
    ready("key", "add", "webui", "--name", "front", "--on-behalf-of", header)
    assert {record.on_behalf_of for record in directory.load(connection)} == {None, header.lower()}


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


@pytest.fixture
def webui(ready):
    """Two front ends, whose users are Bob and Bert, and Bob again."""
    ready("user", "add", "webui")
    ready("user", "add", "chat")
    web = {"username": "webui", "user_id": 1, "key_id": 1, "client_addr": "203.0.113.9"}
    chat = {"username": "chat", "user_id": 2, "key_id": 2, "client_addr": "203.0.113.9"}
    return {
        "bob": {**web, "end_user": "Bob@example.org"},
        "bert": {**web, "end_user": "bert"},
        "nobody": web,
        "chat": {**chat, "end_user": "Bob@example.org"},
    }


def by_end_user(ready):
    rows = ready.json("usage", "--by", "end-user")["rows"]
    return {(row["user"], row["end_user"]): row["requests"] for row in rows}


def test_an_erased_end_user_s_name_is_nowhere_and_its_numbers_stay(
    ready, record, database, connection, webui
):
    record(webui["bob"], webui["bob"], webui["bert"], webui["nobody"], webui["chat"])
    assert ready.json("user", "erase-end-user", "Bob@example.org", "--yes") == [
        {"front_end": "chat", "name": "erased-1"},
        {"front_end": "webui", "name": "erased-1"},
    ]
    expected = {
        ("webui", "erased-1"): 2, ("webui", "bert"): 1, ("webui", None): 1, ("chat", "erased-1"): 1,
    }  # fmt: skip
    assert by_end_user(ready) == expected
    assert "Bob" not in everything(database)
    assert [row["client_addr"] for row in ready.json("requests", "--end-user", "erased-1")] == [None] * 3
    assert ready.json("requests", "--end-user", "bert")[0]["client_addr"] == "203.0.113.9"

    # what was on its way, and what begins later
    now = datetime.datetime.now(UTC)
    early, late = (str(now + datetime.timedelta(minutes=minutes)) for minutes in (-1, 1))
    record(webui["bob"] | {"created_at": early}, webui["bert"], webui["chat"] | {"created_at": early})
    assert "Bob" not in everything(database)
    expected |= {("webui", "erased-1"): 3, ("webui", "bert"): 2, ("chat", "erased-1"): 2}
    assert by_end_user(ready) == expected
    record(webui["bob"] | {"created_at": late})
    assert by_end_user(ready) == expected | {("webui", "Bob@example.org"): 1}

    # once more: another name, and each row keeps the one that it has
    assert ready.json("user", "erase-end-user", "Bob@example.org", "--yes")[0]["name"] == "erased-2"
    assert by_end_user(ready) == expected | {("webui", "erased-2"): 1}
    assert [row["object"] for row in ready.json("audit") if row["verb"] == "user erase-end-user"] == [
        "chat erased-1",
        "webui erased-1",
        "webui erased-2",
    ]

    connection.execute("UPDATE llama_erased_end_users SET erased_at = now() - interval '8 days'")
    ready("db", "prune", "--dry-run")
    assert connection.execute("SELECT count(*) FROM llama_erased_end_users").fetchone() == (3,)
    ready("db", "prune")
    assert connection.execute("SELECT count(*) FROM llama_erased_end_users").fetchone() == (0,)


def test_an_end_user_is_erased_in_one_front_end_alone_where_it_is_said(ready, record, webui):
    record(webui["bob"], webui["chat"])
    text = ready("user", "erase-end-user", "Bob@example.org", "--front-end", "webui", "--yes")
    assert text == "the end user is erased-1 in what came through webui from now on\n"
    assert by_end_user(ready) == {("webui", "erased-1"): 1, ("chat", "Bob@example.org"): 1}


def test_an_end_user_that_nobody_named_is_not_found_and_similar_ones_are_told(ready, record, webui):
    record(webui["bob"])
    error = ready("user", "erase-end-user", "bob@example.org", "--yes", code=3)
    assert error.splitlines()[1] == "hint: did you mean Bob@example.org?"
    for arguments in (
        [""],
        ["eve"],
        ["bert", "--front-end", "chat"],
        ["Bob@example.org", "--front-end", "x"],
    ):
        assert "\nhint: " in ready("user", "erase-end-user", *arguments, "--yes", code=3)
    assert "is no text in UTF-8" in ready("user", "erase-end-user", "\udcff", "--yes", code=2)
    assert "no terminal" in ready("user", "erase-end-user", "Bob@example.org", code=2)
    assert by_end_user(ready) == {("webui", "Bob@example.org"): 1}


def test_with_a_front_end_the_names_of_its_users_go_and_stay_apart(ready, record, database, webui):
    record(webui["bob"], webui["bob"], webui["bert"], webui["nobody"], webui["chat"])
    ready("user", "erase-end-user", "bert", "--yes")
    ready("user", "remove", "webui", "--erase", "--yes")
    assert by_end_user(ready) == {
        ("erased-1", "erased-1"): 1,
        ("erased-1", "erased-2"): 2,
        ("erased-1", None): 1,
        ("chat", "Bob@example.org"): 1,
    }
    record(webui["bert"], webui["nobody"])  # they were in the spool meanwhile
    assert by_end_user(ready)["erased-1", "erased"] == 1
    assert by_end_user(ready)["erased-1", None] == 2
    assert everything(database).count("bert") == everything(database).count("webui") == 0


def test_a_user_goes_as_the_end_user_of_a_front_end_too(ready, record, database, webui):
    ready("user", "add", "bob@example.org")
    mine = {"username": "bob@example.org", "user_id": 3, "key_id": 3}
    record(mine, webui["bert"] | {"end_user": "bob@example.org"})
    ready("user", "remove", "bob@example.org", "--erase", "--yes")
    assert "bob@" not in everything(database)
    assert by_end_user(ready) == {("erased-3", None): 1, ("webui", "erased-1"): 1}


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
