"""The commands for users, keys and the database, from the command line to the rows."""

from __future__ import annotations

import os
import pwd

import pytest

from llmsvc import paths
from llmsvc.accounts import directory, keys, keystore, local
from llmsvc.database import schema
from llmsvc.errors import Error


def audit(database):
    with database.connect() as connection:
        return connection.execute("SELECT verb, object FROM llama_audit ORDER BY id").fetchall()


def usable(database):
    with database.connect() as connection:
        return {record.username: record for record in directory.load(connection)}


def test_user_add_prints_all_that_a_client_needs_and_the_key_works(ready, database):
    text = ready("user", "add", "alice", "--rate-limit", "5")
    (key,) = {word for word in text.split() if keys.well_formed(word)}
    assert "base URL  http://127.0.0.1:8001/v1\n" in text
    assert "model     current\n" in text
    assert f"Authorization: Bearer {key}" in text
    record = usable(database)["alice"]
    assert record.digest == keys.digest(keys.read_pepper(paths.PEPPER), key)
    assert record.rate_limit == 5


def test_quiet_prints_the_key_alone(ready):
    for text in (ready("user", "add", "alice", "-q"), ready("key", "add", "alice", "-q")):
        assert keys.well_formed(text.removesuffix("\n"))


def test_json_of_user_add_has_everything(ready):
    data = ready.json("user", "add", "alice", "--role", "admin")
    assert data["user"]["name"] == "alice"
    assert data["user"]["role"] == "admin"
    assert data["key"]["prefix"] == keys.display_prefix(data["api_key"])
    assert data["base_url"] == "http://127.0.0.1:8001/v1"
    assert data["model"] == "current"
    assert data["api_key"] in data["curl"]


def test_a_user_from_add_to_remove(ready, database):
    ready("user", "add", "alice")
    ready("user", "add", "bob", "--role", "admin")
    lines = ready("user", "list").splitlines()
    assert [line.split()[:3] for line in lines[1:]] == [
        ["alice", "user", "active"],
        ["bob", "admin", "active"],
    ]
    assert ready("user", "disable", "alice") == "user alice is disabled\n"
    assert set(usable(database)) == {"bob"}
    assert ready.json("user", "show", "alice")["state"] == "disabled"
    assert ready("user", "enable", "alice") == "user alice is enabled\n"
    assert set(usable(database)) == {"alice", "bob"}
    ready("key", "add", "alice", "--name", "laptop")
    assert "laptop" in ready("user", "show", "alice")
    assert ready("user", "remove", "alice") == "user alice is removed, 2 key(s) revoked\n"
    assert [user["name"] for user in ready.json("user", "list")] == ["bob"]
    assert "never used again" in ready("user", "add", "alice", code=5)
    assert audit(database) == [
        ("user add", "alice"),
        ("user add", "bob"),
        ("user disable", "alice"),
        ("user enable", "alice"),
        ("key add", "alice/laptop"),
        ("user remove", "alice"),
    ]


def test_user_set_changes_what_is_given_and_nothing_else(ready, database):
    ready("user", "add", "alice", "--rate-limit", "5")
    assert ready.json("user", "show", "alice")["may_switch"] is False
    assert ready("user", "set", "alice", "--may-switch") == (
        "alice: user, active, all models, may switch models, 5 requests per window\n"
    )
    assert usable(database)["alice"].may_switch
    data = ready.json("user", "set", "alice", "--rate-limit", "default", "--role", "admin")
    assert (data["role"], data["rate_limit"], data["may_switch"]) == ("admin", None, True)
    record = usable(database)["alice"]
    assert (record.role, record.rate_limit, record.may_switch) == ("admin", None, True)
    assert ready.json("user", "set", "alice", "--no-may-switch")["may_switch"] is False
    assert not usable(database)["alice"].may_switch
    assert audit(database)[1:] == [
        ("user set", "alice may_switch=True"),
        ("user set", "alice rate_limit=default role=admin"),
        ("user set", "alice may_switch=False"),
    ]
    assert ready("user", "set", "alice", code=2).startswith("llmsvc: nothing to change\nhint: ")
    assert "there is no user bob" in ready("user", "set", "bob", "--may-switch", code=3)


LIMITS = {
    "rate_limit": 7,
    "concurrent": 2,
    "tokens_per_minute": 10_000,
    "tokens_per_day": 3_000_000_000,
    "max_tokens": 500,
    "weight": 4,
}


@pytest.mark.parametrize("verb", ["add", "set"])
def test_every_limit_of_a_user_can_be_set_and_is_told(ready, database, verb):
    if verb == "set":
        ready("user", "add", "alice")
    options = [word for name, value in LIMITS.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    options[options.index("3000000000")] = "3000M"
    ready("user", verb, "alice", *options, "--models", "smollm2,gemma3")
    record = usable(database)["alice"]
    assert {name: getattr(record, name) for name in LIMITS} == LIMITS
    assert record.models == ("gemma3", "smollm2")
    data = ready.json("user", "show", "alice")
    assert {name: data[name] for name in LIMITS} == LIMITS
    assert data["models"] == ["gemma3", "smollm2"]
    told = "7 requests per window, 2 at once, 10,000 tokens a minute, 3,000,000,000 tokens a day"
    assert f"{told}, 500 tokens an answer, weight 4  gemma3,smollm2  no " in ready("user", "list")
    shown = [" ".join(line.split()) for line in ready("user", "show", "alice").splitlines()]
    assert "models gemma3, smollm2, may not" in shown[0]
    for line in ("requests within 60 s 7 own", "requests at once 2 own", "tokens a day 3,000,000,000 own",
                 "weight in the queue 4 own"):  # fmt: skip
        assert line in shown

    back = [
        word for name in LIMITS if name != "weight" for word in (f"--{name.replace('_', '-')}", "default")
    ]
    ready("user", "set", "alice", *back, "--weight", "1", "--models", "all")
    record = usable(database)["alice"]
    assert [getattr(record, name) for name in (*LIMITS, "models")] == [None] * 5 + [1, None]
    assert audit(database)[-1] == (
        "user set",
        "alice rate_limit=default concurrent=default tokens_per_minute=default tokens_per_day=default "
        "max_tokens=default weight=1 models=all",
    )
    shown = [" ".join(line.split()) for line in ready("user", "show", "alice").splitlines()]
    assert "requests within 60 s 60 LLAMA_PROXY_RATE_LIMIT" in shown
    assert "tokens a day no limit LLAMA_PROXY_TOKENS_PER_DAY" in shown
    assert ready("user", "set", "alice", "--weight", "1").endswith("may not switch models, default limits\n")


@pytest.mark.parametrize(
    ("option", "value", "said"),
    [
        ("--rate-limit", "0", "must be a number from 1 to 1000000, or 'default', not '0'"),
        ("--concurrent", "-1", "not '-1'"),
        ("--tokens-per-minute", "1e9", "not '1e9'"),
        ("--tokens-per-day", "1000001M", "must be a number from 1 to 1000000000000"),
        ("--max-tokens", "\u0663", "must be a number"),
        ("--weight", "101", "must be a number from 1 to 100, not '101'"),
        ("--weight", "default", "must be a number from 1 to 100, not 'default'"),
        ("--models", "smollm2,", "'' is no model's name"),
        ("--models", "current", "'current' is no model's name"),
        ("--models", "../x", "'../x' is no model's name"),
        ("--models", ",".join(f"m{n}" for n in range(101)), "at most 100 models"),
    ],
)  # fmt: skip
def test_a_limit_that_makes_no_sense_is_refused_and_changes_nothing(ready, database, option, value, said):
    ready("user", "add", "alice")
    before = usable(database)
    error = ready("user", "set", "alice", f"{option}={value}", code=2)
    assert error.startswith(f"llmsvc: argument {option}: ") and said in error
    assert len(error.splitlines()) == 2
    ready("user", "add", "bob", f"{option}={value}", code=2)
    assert usable(database) == before


def test_an_allowed_model_that_is_not_installed_is_taken_and_named(ready, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "MODELS_D", tmp_path)
    (tmp_path / "smollm2.env").touch()
    assert "\nnote: not installed now: smolm2 " in ready("user", "add", "alice", "--models", "smollm2,smolm2")
    assert "\nnote: not installed now: smolm2 " in ready("user", "set", "alice", "--models", "smolm2")
    assert "note:" not in ready("user", "set", "alice", "--models", "smollm2")


def test_a_new_user_may_switch_where_it_is_said(ready, database):
    assert ready.json("user", "add", "alice", "--may-switch")["user"]["may_switch"] is True
    ready("user", "add", "bob")
    assert [record.may_switch for _, record in sorted(usable(database).items())] == [True, False]
    lines = ready("user", "list").splitlines()
    assert "MAY SWITCH" in lines[0]
    assert [line.split()[6] for line in lines[1:]] == ["yes", "no"]


def test_keys_are_listed_and_revoked(ready, database):
    ready("user", "add", "alice")
    new = ready.json("key", "add", "alice", "--name", "laptop")
    ready("user", "add", "bob")
    assert [key["name"] for key in ready.json("key", "list", "alice")] == ["key-1", "laptop"]
    assert len(ready("key", "list").splitlines()) == 4
    assert "alice/laptop" in ready("key", "revoke", str(new["key"]["id"]))
    assert "laptop" not in ready("key", "list", "alice")
    assert audit(database)[-1] == ("key revoke", f"alice/laptop ({new['key']['prefix']})")


def test_a_command_that_fails_changes_nothing(ready, database):
    ready("user", "add", "alice")
    before = audit(database)
    assert ready("user", "add", "alice", code=5).startswith("llmsvc: user alice exists already\nhint: ")
    paths.PEPPER.unlink()
    assert "the pepper is missing" in ready("user", "add", "bob", code=78)
    assert ready.json("user", "show", "bob", code=3)["error"]["type"] == "NotFoundError"
    assert ready.json("user", "disable", "bob", code=3)["error"]["message"] == "there is no user bob"
    assert audit(database) == before
    assert list(usable(database)) == ["alice"]


def test_a_user_whose_key_cannot_be_made_is_not_made_either(ready, database, monkeypatch):
    def no_key(*arguments, **options):
        raise Error("no key today")

    monkeypatch.setattr(keystore, "add", no_key)
    ready("user", "add", "alice", code=1)
    assert ready.json("user", "list") == audit(database) == []


def test_another_pepper_is_refused(ready, database):
    ready("user", "add", "alice")
    paths.PEPPER.write_text(keys.generate_pepper())
    assert "not the pepper" in ready("key", "add", "alice", code=78)


def test_no_secret_is_in_the_database(ready, database, tmp_path):
    secrets = [ready("user", "add", "alice", "-q").strip(), ready("key", "add", "alice", "-q").strip()]
    with database.connect() as connection:
        local.ensure(connection, keys.read_pepper(paths.PEPPER), tmp_path / "local-key")
    secrets += [(tmp_path / "local-key").read_text().strip(), paths.PEPPER.read_text().strip()]
    dump = database.cluster.run("pg_dump", "--inserts", database.name)
    assert keys.display_prefix(secrets[0]) in dump
    for secret in secrets:
        assert secret not in dump
        assert secret[20:-6] not in dump
        assert secret.encode().hex() not in dump


@pytest.mark.parametrize(
    "arguments", [["user", "show", "\udcff"], ["user", "show", "a'--"], ["key", "list", "Eve"]]
)
def test_a_name_that_cannot_be_is_not_found(ready, arguments):
    assert ready(*arguments, code=3).startswith("llmsvc: there is no user ")


@pytest.mark.parametrize(
    "arguments",
    [["key", "revoke", "\udcff"], ["user", "add", "x", "--rate-limit", "9" * 12], ["user", "add", "\udcff"]],
)
def test_a_value_that_cannot_be_is_a_usage_error(ready, arguments):
    assert ready(*arguments, code=2).startswith("llmsvc: ")


def test_before_migrate_a_command_says_what_to_run(cli):
    assert cli("user", "list", code=6).endswith("hint: run 'sudo llmsvc db migrate'\n")
    assert cli.json("db", "migrate") == {"migrations": list(schema.known())}
    assert cli("db", "migrate") == "nothing to do\n"
    assert cli("user", "list") == "no users; see 'llmsvc user add --help'\n"


def test_a_bad_setting_is_named_with_its_line(cli):
    with paths.CONFIG_ENV.open("a") as file:
        file.write("LLAMA_PROXY_PORT=http\n")
    assert f"{paths.CONFIG_ENV}:4: LLAMA_PROXY_PORT: " in cli("user", "list", code=78)


def test_an_unreachable_database_is_two_lines(cli, tmp_path):
    paths.CONFIG_ENV.write_text(f"POSTGRES_AUTH_HOST={tmp_path}\n")
    message, hint = cli("user", "list", code=6).splitlines()
    assert message.startswith("llmsvc: PostgreSQL does not answer")
    assert hint.startswith("hint: see 'systemctl status postgresql'")


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
def test_a_normal_user_gets_a_hint_and_no_traceback(ready):
    nobody = pwd.getpwnam("nobody").pw_uid
    paths.PROXY_USER = "root"  # undone by the fixture
    paths.CONFIG_ENV.parent.chmod(0o755)
    for parent in list(paths.CONFIG_ENV.parents)[:-2]:
        parent.chmod(parent.stat().st_mode | 0o055)
    for arguments in (["user", "list"], ["user", "add", "eve"], ["db", "init"], ["db", "migrate"]):
        os.seteuid(nobody)
        try:
            text = ready(*arguments, code=4)
        finally:
            os.seteuid(0)
        assert text.splitlines()[1:] == ["hint: run it again with sudo"]
