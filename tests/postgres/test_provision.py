"""Role and database in a cluster that is not ours: also in one whose default encoding is SQL_ASCII."""

from __future__ import annotations

import dataclasses
import os

import psycopg
import pytest

from llmsvc import config, database, paths
from llmsvc.accounts import audit
from llmsvc.cli.main import main
from llmsvc.database import provision
from llmsvc.errors import UnavailableError


@pytest.fixture(scope="module")
def ascii_cluster(make_cluster):
    with make_cluster("SQL_ASCII") as cluster:
        yield cluster


@pytest.fixture
def settings(ascii_cluster, tmp_path, monkeypatch):
    if os.geteuid() != 0 or ascii_cluster.user != "postgres":
        pytest.skip("needs root and the system user postgres")
    file = tmp_path / "config.env"
    file.write_text(
        f"POSTGRES_AUTH_HOST={ascii_cluster.socket_dir}\nPOSTGRES_AUTH_PORT={ascii_cluster.port}\n"
    )
    monkeypatch.setattr(paths, "CONFIG_ENV", file)
    monkeypatch.setattr(paths, "PROXY_USER", "nobody")
    return config.load(file)


def test_db_init_creates_role_database_and_tables_once(settings, ascii_cluster, capsys):
    assert ascii_cluster.run("psql", "-Atc", "SHOW server_encoding", "postgres").strip() == "SQL_ASCII"
    assert main(["db", "init"]) == 0
    assert capsys.readouterr().out.startswith("created role llmsvc-proxy, database llmsvc, migration 0001_")
    assert main(["db", "init"]) == 0
    assert capsys.readouterr().out == "nothing to do\n"
    with psycopg.connect(database.conninfo(settings)) as connection:
        assert connection.execute("SHOW server_encoding").fetchone() == ("UTF8",)
        assert connection.execute(
            "SELECT tableowner FROM pg_tables WHERE tablename = 'llama_users'"
        ).fetchone() == (settings.postgres_auth_user,)
        assert connection.execute("SELECT 'ü' || verb FROM llama_audit").fetchone() == ("üdb init",)


def test_names_that_need_quotes_are_quoted(settings):
    odd = dataclasses.replace(settings, postgres_auth_db="o'\"dd", postgres_auth_user="ro\"l'e")
    assert provision.create_role(odd)
    assert provision.create_database(odd)
    assert not provision.create_role(odd)
    assert not provision.create_database(odd)


def test_a_database_that_is_sql_ascii_still_gives_text(settings, ascii_cluster):
    ascii_cluster.run("psql", "-qc", "CREATE DATABASE plain", "postgres")
    plain = dataclasses.replace(settings, postgres_auth_db="plain", postgres_auth_user=ascii_cluster.user)
    with psycopg.connect(database.conninfo(plain), autocommit=True) as connection:
        database.migrate(connection)
        audit.record(connection, "test", "ü")
        assert connection.execute("SELECT object FROM llama_audit").fetchone() == ("ü",)
        assert database.pending(connection) == []


def test_what_was_made_here_is_known_by_its_comment(settings, ascii_cluster):
    marked = dataclasses.replace(settings, postgres_auth_db="mar'ked", postgres_auth_user="our role")
    assert provision.made_here(marked) == {}
    ascii_cluster.run("psql", "-qc", 'CREATE ROLE "our role"', "postgres")
    assert not provision.create_role(marked)
    assert provision.create_database(marked)
    assert provision.made_here(marked) == {"database": "mar'ked"}


def test_a_cluster_that_does_not_serve_its_superuser_is_one_clear_error(settings, tmp_path):
    absent = dataclasses.replace(settings, postgres_auth_host=str(tmp_path))
    with pytest.raises(
        UnavailableError, match="refuses its superuser postgres: connection to server"
    ) as caught:
        provision.database_exists(absent)
    assert "runuser" not in str(caught.value) and "\n" not in str(caught.value)
    assert "pg_lsclusters" in (caught.value.hint or "")
