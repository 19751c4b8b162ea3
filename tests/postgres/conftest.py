"""A throwaway real PostgreSQL cluster on a unix socket, and fresh databases in it."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import getpass
import itertools
import json
import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from llmsvc import config, database, paths
from llmsvc.accounts import keys
from llmsvc.cli.main import main
from llmsvc.proxy import ledger

PORT = 54329
PEER_DATABASE = "peer_only"
_numbers = itertools.count()
_ROW = {
    "username": "alice",
    "user_id": 1,
    "key_id": 1,
    "client_addr": "192.0.2.1",
    "path": "/v1/chat/completions",
    "model": "smollm2",
    "state": "ok",
    "status_code": 200,
    "duration_ms": 1200,
    "queue_ms": 200,
    "request_bytes": 100,
    "response_bytes": 1000,
    "prompt_tokens": 10,
    "completion_tokens": 20,
}
"""A request of the ledger: one second on the model."""


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A running cluster. `user` is the OS user it runs as and the superuser role."""

    socket_dir: Path
    user: str
    port: int = PORT

    def conninfo(self, database: str = "postgres", user: str | None = None) -> str:
        return psycopg.conninfo.make_conninfo(
            host=str(self.socket_dir), port=self.port, dbname=database, user=user or self.user
        )

    def run(self, program: str, *args: str) -> str:
        """Runs one of PostgreSQL's programs against the cluster as its superuser."""
        argv = [program_path(program), "-h", str(self.socket_dir), "-p", str(self.port), "-U", self.user]
        return subprocess.run([*argv, *args], check=True, capture_output=True, text=True).stdout


@dataclasses.dataclass(frozen=True)
class Database:
    """A fresh migrated database of its own; `config` points at it, `config_env` is that as a file."""

    config: config.Config
    config_env: Path
    cluster: Cluster

    @property
    def name(self) -> str:
        return self.config.postgres_auth_db

    def connect(self) -> database.Connection:
        return psycopg.connect(database.conninfo(self.config), autocommit=True)


def program_path(name: str) -> str:
    installed = sorted(
        Path("/usr/lib/postgresql").glob(f"*/bin/{name}"), key=lambda p: float(p.parts[-3]), reverse=True
    )
    found = str(installed[0]) if installed else shutil.which(name)
    if not found:
        pytest.fail(f"{name} is not installed: apt-get install postgresql")
    return found


def cluster_user() -> str:
    """PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return getpass.getuser()
    try:
        return pwd.getpwnam("postgres").pw_name
    except KeyError:
        return "nobody"


@contextlib.contextmanager
def run_cluster(encoding: str) -> Iterator[Cluster]:
    """A cluster in a temporary directory; everybody on its socket is trusted, but peer in PEER_DATABASE."""
    user = cluster_user()
    account = pwd.getpwnam(user)
    with tempfile.TemporaryDirectory(prefix="llmsvc-pg-", dir="/tmp") as folder:
        root = Path(folder)
        root.chmod(0o755)
        if os.geteuid() == 0:
            os.chown(root, account.pw_uid, account.pw_gid)
        data = root / "data"

        def run(program: str, *args: str) -> None:
            drop = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}
            subprocess.run(
                [program_path(program), *args],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                cwd=root,
                env={"PATH": os.environ["PATH"], "HOME": str(root), "LC_ALL": "C"},
                **(drop if os.geteuid() == 0 else {}),
            )

        run("initdb", "-D", str(data), "-U", user, "-E", encoding, "--locale=C", "--auth=trust", "--no-sync")
        (data / "pg_hba.conf").write_text(f"local {PEER_DATABASE} all peer\nlocal all all trust\n")
        options = f"-c listen_addresses='' -c port={PORT} -c unix_socket_directories='{root}' -c fsync=off"
        run("pg_ctl", "-D", str(data), "-w", "-l", str(root / "log"), "-o", options, "start")
        try:
            yield Cluster(root, user)
        finally:
            run("pg_ctl", "-D", str(data), "-w", "-m", "immediate", "stop")


@pytest.fixture(scope="session")
def make_cluster() -> Callable[[str], contextlib.AbstractContextManager[Cluster]]:
    """run_cluster(), for a test that needs a cluster of another encoding."""
    return run_cluster


@pytest.fixture(scope="session")
def cluster() -> Iterator[Cluster]:
    """A UTF8 cluster with the role of the proxy."""
    with run_cluster("UTF8") as cluster:
        cluster.run("psql", "-qc", f'CREATE ROLE "{paths.PROXY_USER}" LOGIN', "postgres")
        yield cluster


@pytest.fixture
def empty_database(cluster: Cluster, tmp_path: Path) -> Iterator[Database]:
    """A fresh database without our tables, owned by the role of the proxy."""
    name = f"test{next(_numbers)}"
    cluster.run("psql", "-qc", f'CREATE DATABASE {name} OWNER "{paths.PROXY_USER}"', "postgres")
    config_env = tmp_path / "config.env"
    config_env.write_text(
        f"POSTGRES_AUTH_HOST={cluster.socket_dir}\nPOSTGRES_AUTH_PORT={PORT}\nPOSTGRES_AUTH_DB={name}\n"
    )
    yield Database(config.load(config_env), config_env, cluster)
    cluster.run("psql", "-qc", f"DROP DATABASE {name} WITH (FORCE)", "postgres")


@pytest.fixture(name="database")
def migrated_database(empty_database: Database) -> Database:
    """A fresh migrated database, owned by the role of the proxy."""
    with empty_database.connect() as connection:
        database.migrate(connection)
    return empty_database


class Cli:
    """Runs commands in this process, against the configuration of one test."""

    def __init__(self, capsys):
        self.capsys = capsys

    def __call__(self, *arguments, code=0):
        assert main(arguments) == code
        out, err = self.capsys.readouterr()
        return err if code else out

    def json(self, *arguments, code=0):
        assert main([*arguments, "--json"]) == code
        out, err = self.capsys.readouterr()
        assert err == ""
        return json.loads(out)


@pytest.fixture
def cli(empty_database, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(paths, "CONFIG_ENV", empty_database.config_env)
    monkeypatch.setattr(paths, "PEPPER", tmp_path / "pepper")
    monkeypatch.setattr(paths, "PROXY_USER", "nobody" if os.geteuid() == 0 else getpass.getuser())
    monkeypatch.delenv("SUDO_USER", raising=False)
    paths.PEPPER.write_text(keys.generate_pepper())
    return Cli(capsys)


@pytest.fixture
def ready(cli, database):
    """The commands with a migrated database."""
    return cli


@pytest.fixture
def connection(database: Database) -> Iterator[psycopg.Connection[Any]]:
    """A connection to the migrated database."""
    with database.connect() as connection:
        yield connection


@pytest.fixture
def record(database: Database) -> Callable[..., None]:
    """Writes rows as the ledger does, one batch a call. Its arguments say what of _ROW is different."""

    def write(*changes: dict[str, object]) -> None:
        own = [{"request_id": str(ledger.new_request_id()), "created_at": str(_now())} for _ in changes]
        rows = [_ROW | fresh | change for fresh, change in zip(own, changes, strict=True)]
        with database.connect() as connection:
            connection.execute("SET statement_timeout = '20s'")
            connection.execute(ledger._INSERT, [json.dumps(rows, default=str)])

    return write


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.timezone.utc)
