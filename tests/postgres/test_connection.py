"""The connection to PostgreSQL: as whom, and what is said where there is none."""

from __future__ import annotations

import dataclasses
import getpass
import os

import pytest

from llmsvc import database as db
from llmsvc import paths
from llmsvc.errors import DeniedError, UnavailableError


@pytest.fixture
def account(monkeypatch):
    """The OS user whose identity is taken: another one where we are root."""
    name = "nobody" if os.geteuid() == 0 else getpass.getuser()
    monkeypatch.setattr(paths, "PROXY_USER", name)
    return name


def altered(database, **changes):
    return dataclasses.replace(database.config, **changes)


def test_root_logs_in_as_the_proxys_user_by_peer_authentication(cluster, database, account):
    if account != cluster.user:
        cluster.run("psql", "-qc", f'CREATE ROLE "{account}" LOGIN', "postgres")
    cluster.run("psql", "-qc", "CREATE DATABASE peer_only", "postgres")
    config = altered(database, postgres_auth_db="peer_only", postgres_auth_user=account)
    before = os.geteuid(), os.getegid(), os.getgroups()
    with db.connect(config) as connection:
        assert connection.execute("SELECT current_user").fetchone() == (account,)
        assert connection.autocommit
    assert (os.geteuid(), os.getegid(), os.getgroups()) == before
    with pytest.raises(UnavailableError, match="Peer authentication failed") as caught:
        db.connect(altered(database, postgres_auth_db="peer_only"))
    assert "pg_hba.conf" in caught.value.hint


def test_no_postgresql_is_explained(database, account, tmp_path):
    with pytest.raises(UnavailableError, match="does not answer at") as caught:
        db.connect(altered(database, postgres_auth_host=str(tmp_path)))
    assert "systemctl status postgresql" in caught.value.hint
    assert " failed: " in str(caught.value) and "\n" not in str(caught.value)


def test_what_the_shell_sets_for_other_databases_does_not_matter(database, account, monkeypatch):
    for name, value in (("PGSERVICE", "other"), ("PGOPTIONS", "-c search_path=other")):
        monkeypatch.setenv(name, value)
    with db.connect(database.config) as connection:
        assert connection.execute("SHOW search_path").fetchone() == ('"$user", public',)


@pytest.mark.parametrize("missing", ["postgres_auth_db", "postgres_auth_user"])
def test_a_missing_database_or_role_leads_to_install(database, account, missing):
    with pytest.raises(UnavailableError, match='"absent" does not exist') as caught:
        db.connect(altered(database, **{missing: "absent"}))
    assert "sudo llmsvc install" in caught.value.hint
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become nobody")
def test_a_normal_user_is_told_to_use_sudo(database):
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.setgid(65534)
        os.setuid(65534)
        paths.PROXY_USER = "root"
        try:
            db.connect(database.config)
        except DeniedError as error:
            os.write(writer, str(error.hint).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as stream:
        assert stream.read() == "run it again with sudo"
    os.waitpid(child, 0)
