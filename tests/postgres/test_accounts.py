"""The life of users and keys in a real database."""

from __future__ import annotations

import psycopg
import pytest

from llmsvc.accounts import directory, keys, keystore, local, meta, users
from llmsvc.errors import ConflictError, NotFoundError, SettingError, UsageError

PEPPER = b"p" * 32


def usable(connection):
    return sorted((record.username, record.prefix) for record in directory.load(connection))


def make(connection, name, **options):
    """A user with a key; returns the key."""
    users.create(connection, name, **options)
    return keystore.add(connection, PEPPER, name).secret


def test_a_new_user_with_a_key_is_in_the_directory(connection):
    secret = make(connection, "alice", role="admin", rate_limit=7)
    (record,) = directory.load(connection)
    assert record.username == "alice"
    assert record.digest == keys.digest(PEPPER, secret)
    assert record.prefix == keys.display_prefix(secret)
    assert (record.role, record.rate_limit, record.hidden, record.expires_at) == ("admin", 7, False, None)
    assert record.user_id == users.get(connection, "alice").id
    assert users.get(connection, "alice").active_keys == 1


def test_limits_rights_and_front_ends_are_in_the_directory(connection):
    make(connection, "alice")
    make(connection, "bob")
    connection.execute(
        "UPDATE llama_users SET concurrent = 2, tokens_per_minute = 3, tokens_per_day = 10000000000,"
        " max_tokens = 4, weight = 5, models = '{b,a}' WHERE username = 'bob'"
    )
    connection.execute(
        "UPDATE llama_api_keys SET on_behalf_of = 'x-user' WHERE prefix IN (SELECT prefix"
        " FROM llama_api_keys k JOIN llama_users u ON u.id = user_id WHERE username = 'bob')"
    )
    alice, bob = sorted(directory.load(connection), key=lambda record: record.username)
    assert (alice.concurrent, alice.tokens_per_minute, alice.tokens_per_day, alice.max_tokens) == (None,) * 4
    assert (alice.weight, alice.models, alice.on_behalf_of) == (1, None, None)
    assert (bob.concurrent, bob.tokens_per_minute, bob.tokens_per_day, bob.max_tokens) == (2, 3, 10**10, 4)
    assert (bob.weight, bob.models, bob.on_behalf_of) == (5, ("b", "a"), "x-user")
    assert len({alice, bob}) == 2


@pytest.mark.parametrize(
    "change",
    ["concurrent = 0", "tokens_per_minute = 0", "tokens_per_day = 0", "max_tokens = 0", "weight = 0",
     "weight = 101", "models = '{}'", "models = '{a,NULL}'"],
)  # fmt: skip
def test_the_database_takes_no_limit_that_makes_no_sense(connection, change):
    make(connection, "alice")
    with pytest.raises(psycopg.errors.CheckViolation):
        connection.execute(f"UPDATE llama_users SET {change}".encode())


def test_the_directory_has_only_what_may_be_used(connection):
    kept = make(connection, "kept")
    for name in ("disabled", "removed", "revoked", "expired"):
        make(connection, name)
    users.set_enabled(connection, "disabled", False)
    users.remove(connection, "removed")
    keystore.revoke(connection, "revoked/key-1")
    connection.execute(
        "UPDATE llama_api_keys SET expires_at = now() - interval '1 s'"
        " FROM llama_users u WHERE u.id = user_id AND username = 'expired'"
    )
    assert usable(connection) == [("kept", keys.display_prefix(kept))]
    users.set_enabled(connection, "disabled", True)
    assert [name for name, _ in usable(connection)] == ["disabled", "kept"]


@pytest.mark.parametrize("name", ["Alice", "", "-a", "a b", "a/b", "ä", "a" * 64, "a\n", "a';--"])
def test_a_bad_user_name_is_refused(connection, name):
    with pytest.raises(UsageError) as caught:
        users.create(connection, name)
    assert "lower-case" in caught.value.hint


@pytest.mark.parametrize("name", ["a", "0", "alice@example.org", "build-bot_2", "a" * 63])
def test_a_good_user_name_is_taken(connection, name):
    assert users.create(connection, name).username == name


def test_a_name_is_used_once(connection):
    make(connection, "alice")
    with pytest.raises(ConflictError, match="exists already"):
        users.create(connection, "alice")


def test_a_removed_user_keeps_its_row_and_its_name_is_never_used_again(connection):
    make(connection, "alice")
    users.remove(connection, "alice")
    assert users.every(connection) == []
    with pytest.raises(ConflictError, match="names are never used again"):
        users.create(connection, "alice")
    for action in (users.get, users.remove, lambda c, n: users.set_enabled(c, n, True)):
        with pytest.raises(NotFoundError, match="was removed on"):
            action(connection, "alice")
    assert connection.execute("SELECT username, enabled FROM llama_users").fetchall() == [("alice", False)]
    assert connection.execute("SELECT count(*) FROM llama_api_keys WHERE revoked_at IS NULL").fetchone() == (
        0,
    )


def test_an_unknown_user_has_no_keys(connection):
    for action in (users.get, keystore.active, lambda c, n: keystore.add(c, PEPPER, n)):
        with pytest.raises(NotFoundError, match="there is no user bob"):
            action(connection, "bob")


def test_keys_without_a_name_are_numbered_and_names_are_free_after_a_revoke(connection):
    make(connection, "alice")
    assert keystore.add(connection, PEPPER, "alice").key.name == "key-2"
    keystore.add(connection, PEPPER, "alice", name="laptop")
    with pytest.raises(ConflictError, match="'laptop' already"):
        keystore.add(connection, PEPPER, "alice", name="laptop")
    keystore.revoke(connection, "alice/laptop")
    keystore.revoke(connection, "alice/key-2")
    keystore.add(connection, PEPPER, "alice", name="laptop")
    assert keystore.add(connection, PEPPER, "alice").key.name == "key-3"
    assert [key.name for key in keystore.active(connection, "alice")] == ["key-1", "laptop", "key-3"]
    keystore.revoke(connection, "alice/laptop")
    assert [key.name for key in keystore.active(connection, "alice")] == ["key-1", "key-3"]
    with pytest.raises(UsageError):
        keystore.add(connection, PEPPER, "alice", name="a/b")


@pytest.mark.parametrize("form", ["id", "prefix", "whole key", "name"])
def test_a_key_is_revoked_by_what_the_admin_has_of_it(connection, form):
    make(connection, "bob")
    users.create(connection, "alice")
    new = keystore.add(connection, PEPPER, "alice", name="laptop")
    which = {"id": str(new.key.id), "prefix": new.key.prefix, "whole key": new.secret, "name": "alice/laptop"}
    revoked = keystore.revoke(connection, which[form])
    assert revoked.id == new.key.id
    assert revoked.revoked_at
    assert [name for name, _ in usable(connection)] == ["bob"]
    assert keystore.revoke(connection, which[form]) == revoked


@pytest.mark.parametrize("which", ["99", "9" * 40, "sk-llm-000000", "alice/none"])
def test_an_unknown_key_is_not_found(connection, which):
    with pytest.raises(NotFoundError, match=f"no key {which}"):
        keystore.revoke(connection, which)


def test_what_names_no_key_is_a_usage_error(connection):
    with pytest.raises(UsageError, match="'laptop' does not name a key"):
        keystore.revoke(connection, "laptop")


def test_a_pasted_key_does_not_come_back_in_the_message(connection):
    with pytest.raises(NotFoundError) as caught:
        keystore.revoke(connection, key := keys.generate())
    assert key not in f"{caught.value} {caught.value.hint}"


def test_a_prefix_of_several_keys_asks_for_the_id(connection):
    make(connection, "alice")
    second = keystore.add(connection, PEPPER, "alice").key
    connection.execute("UPDATE llama_api_keys SET prefix = %s", [second.prefix])
    with pytest.raises(ConflictError) as caught:
        keystore.revoke(connection, second.prefix)
    assert str(second.id) in caught.value.hint
    assert len(usable(connection)) == 2


def test_every_change_notifies_the_proxy_but_a_last_use_does_not(database, connection):
    make(connection, "alice")
    with database.connect() as listener:
        listener.execute(f"LISTEN {directory.CHANNEL}")
        for action in (
            lambda: users.create(connection, "bob"),
            lambda: keystore.add(connection, PEPPER, "bob"),
            lambda: users.set_enabled(connection, "bob", False),
            lambda: keystore.revoke(connection, "bob/key-1"),
            lambda: connection.execute("UPDATE llama_users SET rate_limit = 5"),
            lambda: connection.execute("UPDATE llama_users SET models = '{a}'"),
            lambda: connection.execute("UPDATE llama_api_keys SET on_behalf_of = 'x-user'"),
            lambda: connection.execute("UPDATE llama_api_keys SET expires_at = now()"),
            lambda: connection.execute("DELETE FROM llama_api_keys"),
        ):
            action()
            assert len(list(listener.notifies(timeout=10, stop_after=1))) == 1
        keystore.add(connection, PEPPER, "alice")
        assert len(list(listener.notifies(timeout=10, stop_after=1))) == 1
        connection.execute("UPDATE llama_api_keys SET last_used_at = now()")
        listener.execute("SELECT 1")  # a round trip brings a notification that was sent before it
        assert list(listener.notifies(timeout=0)) == []


def test_the_database_knows_its_pepper(connection):
    meta.bind_pepper(connection, PEPPER)
    meta.bind_pepper(connection, PEPPER)
    with pytest.raises(SettingError, match="not the pepper") as caught:
        meta.bind_pepper(connection, b"q" * 32)
    assert "restore" in caught.value.hint
    (stored,) = connection.execute(meta.FINGERPRINT_QUERY).fetchone()
    meta.compare(stored, PEPPER)
    assert PEPPER.hex() not in stored


def test_the_local_key_works_and_is_in_no_list(connection, tmp_path):
    file = tmp_path / "local-key"
    assert not local.is_current(connection, PEPPER, file)
    assert local.ensure(connection, PEPPER, file)
    assert not local.ensure(connection, PEPPER, file)
    assert file.stat().st_mode & 0o777 == 0o600
    key = file.read_text().removesuffix("\n")
    (record,) = directory.load(connection)
    assert record.hidden
    assert record.digest == keys.digest(PEPPER, key)
    assert users.every(connection) == keystore.active(connection) == []
    for action in (
        lambda: users.remove(connection, "llmsvc"),
        lambda: keystore.revoke(connection, str(record.key_id)),
        lambda: keystore.revoke(connection, key),
    ):
        with pytest.raises(NotFoundError):
            action()
    with pytest.raises(ConflictError, match="the service's own"):
        users.create(connection, "llmsvc")


def test_a_local_key_whose_row_was_not_written_is_kept(connection, tmp_path):
    file = tmp_path / "local-key"
    key = keys.generate()
    file.write_text(key + "\n")
    assert local.ensure(connection, PEPPER, file)
    assert file.read_text() == key + "\n"
    assert local.is_current(connection, PEPPER, file)


@pytest.mark.parametrize("damage", ["revoked", "lost", "broken"])
def test_a_local_key_that_no_longer_works_is_made_anew(connection, tmp_path, damage):
    file = tmp_path / "local-key"
    local.ensure(connection, PEPPER, file)
    old = file.read_text()
    if damage == "revoked":
        connection.execute("UPDATE llama_api_keys SET revoked_at = now()")
    elif damage == "lost":
        file.unlink()
    else:
        file.write_text(old[:-3])
    assert local.ensure(connection, PEPPER, file)
    assert file.read_text() != old
    assert [record.digest for record in directory.load(connection)] == [
        keys.digest(PEPPER, file.read_text().strip())
    ]


def test_the_name_of_the_local_user_taken_by_another_is_said(connection, tmp_path):
    connection.execute("INSERT INTO llama_users (username) VALUES ('llmsvc')")
    with pytest.raises(ConflictError, match="the service's own"):
        local.ensure(connection, PEPPER, tmp_path / "local-key")
    assert not (tmp_path / "local-key").exists()
