"""The way back to the database from before a migration: tables as they were, and no request's row lost."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

import pytest

from llmsvc import config, database, paths
from llmsvc.cli.main import main
from llmsvc.database import dump
from llmsvc.errors import Error

ROW = (
    "INSERT INTO llama_requests (request_id, username, user_id, key_id, path, state, request_bytes)"
    " VALUES (gen_random_uuid(), 'alice', 1, 1, '/x', 'ok', 1) RETURNING request_id"
)


@pytest.fixture(scope="module")
def cluster_of_this_file(make_cluster):
    with make_cluster("UTF8") as cluster:
        yield cluster


@pytest.fixture
def dumping():
    """Where others than root may come, unlike in a directory of pytest's."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as place:
        os.chmod(place, 0o711)
        yield Path(place) / "dumping"


@pytest.fixture
def settings(cluster_of_this_file, tmp_path, dumping, monkeypatch):
    cluster = cluster_of_this_file
    if os.geteuid() != 0 or cluster.user != "postgres":
        pytest.skip("needs root and the system user postgres")
    file = tmp_path / "config.env"
    file.write_text(
        f"POSTGRES_AUTH_HOST={cluster.socket_dir}\nPOSTGRES_AUTH_PORT={cluster.port}\n"
        f"POSTGRES_AUTH_DB=dump{os.urandom(3).hex()}\n"
    )
    monkeypatch.setattr(paths, "CONFIG_ENV", file)
    monkeypatch.setattr(paths, "PROXY_USER", "nobody")
    monkeypatch.setattr(paths, "BACKUPS", tmp_path / "backups")
    monkeypatch.setattr(paths, "DUMPING", dumping)
    assert main(["db", "init"]) == 0
    return config.load(file)


def test_restored_it_is_as_before_but_for_the_requests_since_then(settings):
    with database.connect(settings) as connection:
        (old,) = connection.execute(ROW).fetchone()
        connection.execute("INSERT INTO llama_users (username) VALUES ('alice')")
        file = dump.make(settings, "before")
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
        connection.execute("CREATE TABLE later (a int)")
        connection.execute("ALTER TABLE llama_requests ADD COLUMN later int")
        connection.execute("INSERT INTO llama_migrations (name) VALUES ('9999_later')")
        (new,) = connection.execute(ROW).fetchone()
        dump.restore(file)
        rows = connection.execute("SELECT request_id FROM llama_requests ORDER BY seq").fetchall()
        assert rows == [(old,), (new,)]
        assert connection.execute("SELECT to_regclass('later')").fetchone() == (None,)
        assert connection.execute("SELECT username FROM llama_users").fetchall() == [("alice",)]
        assert database.pending(connection) == []
        assert not paths.DUMPING.exists()
        # what hangs on triggers and sequences goes on
        connection.execute(ROW)
        sums = connection.execute("SELECT sum(requests) FROM llama_usage_daily").fetchone()
        assert sums == (3,)


def test_a_restore_that_fails_changes_nothing(settings):
    with database.connect(settings) as connection:
        connection.execute(ROW)
        file = dump.make(settings, "before")
        connection.execute("CREATE TABLE later (a int)")
        with file.open("a") as damaged:
            damaged.write("\nSELECT nonsense;\n")
        with pytest.raises(Error, match="nonsense"):
            dump.restore(file)
        assert connection.execute("SELECT to_regclass('later')::text").fetchone() == ("later",)
        assert connection.execute("SELECT count(*) FROM llama_requests").fetchone() == (1,)


def test_only_the_last_dump_stays(settings):
    dump.make(settings, "before-1")
    assert dump.make(settings, "before-2").read_text().count("CREATE TABLE public.llama_users") == 1
    assert [file.name for file in paths.BACKUPS.iterdir()] == ["before-2.sql"]
