"""The schema comes to its present state from any older one, whoever runs the migrations and how often."""

from __future__ import annotations

import threading

import psycopg
import pytest

from llmsvc import database
from llmsvc.accounts import users
from llmsvc.database import schema
from llmsvc.errors import Error


def test_migrate_applies_everything_once(empty_database):
    with empty_database.connect() as connection:
        assert database.pending(connection) == list(schema.known())
        assert database.migrate(connection) == list(schema.known())
        assert database.pending(connection) == []
        assert database.migrate(connection) == []
        with empty_database.connect() as other:  # the lock is free, though its connection is open
            other.execute("SET lock_timeout = '5s'")
            assert database.migrate(other) == []


def test_two_that_migrate_at_once_apply_each_migration_once(empty_database):
    barrier = threading.Barrier(2)
    applied: list[list[str]] = []

    def work() -> None:
        with empty_database.connect() as connection:
            barrier.wait()
            applied.append(database.migrate(connection))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(applied) == [[], list(schema.known())]


@pytest.mark.parametrize(
    ("statement", "why"),
    [
        ("SELECT nonsense", 'column "nonsense" does not exist'),
        # fails only when the row about it is written
        ("ALTER TABLE llama_migrations ADD CHECK (name < '9')", "violates check constraint"),
    ],
)
def test_a_failing_migration_leaves_nothing_behind_and_says_why(empty_database, monkeypatch, statement, why):
    broken = schema.known() | {"9999_broken": f"CREATE TABLE half (); {statement}"}
    monkeypatch.setattr(schema, "known", lambda: broken)
    with empty_database.connect() as connection:
        with pytest.raises(Error, match=f"9999_broken cannot be applied to this database: .*{why}"):
            database.migrate(connection)
        assert connection.execute("SELECT to_regclass('half')").fetchone() == (None,)
        assert database.pending(connection) == ["9999_broken"]
    with empty_database.connect() as connection:  # the lock is free again
        del broken["9999_broken"]
        assert database.migrate(connection) == []


def test_a_user_of_the_first_version_is_kept_and_may_not_switch(empty_database, monkeypatch):
    everything = schema.known()
    first = {"0001_initial": everything["0001_initial"]}
    monkeypatch.setattr(schema, "known", lambda: first)
    with empty_database.connect() as connection:
        database.migrate(connection)
        connection.execute("INSERT INTO llama_users (username, role) VALUES ('alice', 'admin')")
        monkeypatch.setattr(schema, "known", lambda: everything)
        assert database.migrate(connection) == list(everything)[1:]
        user = users.get(connection, "alice")
    assert (user.role, user.may_switch) == ("admin", False)


def test_a_newer_schema_is_refused(database):
    with database.connect() as connection:
        connection.execute("INSERT INTO llama_migrations (name) VALUES ('9999_future')")
        for action in (schema.pending, schema.migrate):
            with pytest.raises(Error, match=r"newer than this version.*9999_future"):
                action(connection)


def test_a_database_of_another_is_one_clear_error(cluster, empty_database):
    cluster.run("psql", "-qc", "CREATE ROLE guest LOGIN", "postgres")
    cluster.run("psql", "-qc", "REVOKE CREATE ON SCHEMA public FROM PUBLIC", empty_database.name)
    with (
        psycopg.connect(cluster.conninfo(empty_database.name, "guest"), autocommit=True) as connection,
        pytest.raises(Error, match="role guest may not make tables in the database") as caught,
    ):
        database.migrate(connection)
    assert f'ALTER DATABASE "{empty_database.name}" OWNER TO "guest"' in (caught.value.hint or "")
