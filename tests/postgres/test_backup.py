"""A backup brings yesterday's keys to another machine, and a restore does all or nothing."""

from __future__ import annotations

import io
import json
import os
import tarfile
import time

import pytest

from llmsvc import config, database, paths, process
from llmsvc.accounts import directory, keys, meta
from llmsvc.backup import archive, services
from llmsvc.cli.main import main
from llmsvc.database import schema
from tests.postgres.conftest import Database

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a backup needs root")


@pytest.fixture(autouse=True)
def no_systemd(monkeypatch):
    monkeypatch.setattr(services, "_systemd", lambda: False)


class Host:
    """A machine of its own: settings, models, credentials and a database."""

    def __init__(self, monkeypatch, folder, database):
        self._monkeypatch, self.folder, self.database = monkeypatch, folder, database

    def enter(self):
        """From now on the commands run on this one."""
        etc = self.folder / "etc"
        for name, path in {
            "ETC": etc,
            "CONFIG_ENV": etc / "config.env",
            "MODELS_D": etc / "models.d",
            "DEFAULT_MODEL": etc / "default-model",
            "CREDENTIALS": etc / "credentials",
            "PEPPER": etc / "credentials/pepper",
            "LOCAL_KEY": etc / "credentials/local-key",
            "STATE": self.folder / "state",
            "SAVED": self.folder / "backups",
            "INSTALL_LOCK": self.folder / "lock",
        }.items():
            self._monkeypatch.setattr(paths, name, path)
        return self

    def files(self):
        """Everything below etc that is a file, with its text and mode."""
        found = {f: f for f in (self.folder / "etc").rglob("*") if f.is_file() and not f.is_symlink()}
        return {str(f): (f.read_text(), f.stat().st_mode & 0o7777) for f in found}

    def rows(self, query):
        with self.database.connect() as connection:
            return connection.execute(query).fetchall()

    def knows(self, key):
        with self.database.connect() as connection:
            pepper = keys.read_pepper(self.folder / "etc/credentials/pepper")
            return keys.digest(pepper, key) in {record.digest for record in directory.load(connection)}


@pytest.fixture
def make_host(cluster, tmp_path, monkeypatch):
    made = []

    def make(name):
        folder = tmp_path / name
        (folder / "etc/models.d").mkdir(parents=True)
        (folder / "etc/credentials").mkdir(mode=0o700)
        tmp_path.chmod(0o755)
        cluster.run("psql", "-qc", f'CREATE DATABASE {name} OWNER "{role}"', "postgres")
        (folder / "etc/config.env").write_text(
            f"POSTGRES_AUTH_HOST={cluster.socket_dir}\n"
            f"POSTGRES_AUTH_PORT={cluster.port}\nPOSTGRES_AUTH_DB={name}\n"
        )
        (folder / "etc/credentials/pepper").write_text(keys.generate_pepper())
        (folder / "etc/credentials/pepper").chmod(0o600)
        made.append(name)
        own = config.load(folder / "etc/config.env")
        with database.connect(own) as connection:
            schema.migrate(connection)
        return Host(monkeypatch, folder, Database(own, folder / "etc/config.env", cluster))

    # the cluster trusts everybody: the role is what counts, and the system may lack the user
    role = paths.PROXY_USER
    monkeypatch.setattr(paths, "PROXY_USER", "nobody")
    yield make
    for name in made:
        cluster.run("psql", "-qc", f"DROP DATABASE {name} WITH (FORCE)", "postgres")


@pytest.fixture
def old(make_host, capsys):
    """Yesterday's machine: a user with a key and a limit, requests, a model, a setting and a TLS key."""
    host = make_host("old").enter()
    (paths.CREDENTIALS / "tls-key").write_text("a secret\n")
    (paths.CREDENTIALS / "database-password").write_text("another one\n")
    with paths.CONFIG_ENV.open("a") as stream:
        stream.write("LLAMA_PROXY_RATE_LIMIT=7\n")
    (paths.MODELS_D / "tiny.env").write_text("MODEL=/nowhere/tiny.gguf\nN_CTX=512\n")
    paths.DEFAULT_MODEL.symlink_to("models.d/tiny.env")
    assert main(["user", "add", "alice", "-q", "--rate-limit", "5"]) == 0
    host.key = capsys.readouterr().out.strip()
    with host.database.connect() as connection:
        connection.execute(
            "INSERT INTO llama_requests (request_id, username, user_id, key_id, path, model, state,"
            " request_bytes, prompt_tokens, completion_tokens)"
            " SELECT gen_random_uuid(), 'alice', 1, 1, '/v1/chat/completions', 'tiny', 'ok', 10, 3, 4"
            " FROM generate_series(1, 1000)"
        )
    return host


@pytest.fixture
def saved(old, tmp_path, capsys):
    file = tmp_path / "old.tar"
    assert main(["db", "backup", str(file)]) == 0
    capsys.readouterr()
    return file


def test_restored_on_a_fresh_machine_yesterdays_key_works(old, saved, make_host, capsys):
    assert saved.stat().st_mode & 0o7777 == 0o600
    new = make_host("new").enter()
    own = (new.folder / "etc/config.env").read_text()
    assert not new.knows(old.key)
    assert main(["db", "restore", str(saved), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert new.knows(old.key)
    assert told["missing"] == [{"name": "tiny", "file": "tiny.gguf", "what": None}]
    assert (told["default_model"], told["saved"]) == (None, None)
    # its own way to its database, and all the rest of the old one
    text = paths.CONFIG_ENV.read_text()
    assert own in text and "LLAMA_PROXY_RATE_LIMIT=7\n" in text
    assert (paths.MODELS_D / "tiny.env").read_text() == "MODEL=/nowhere/tiny.gguf\nN_CTX=512\n"
    files = {path.rpartition("/")[2]: mode for path, (_, mode) in new.files().items()}
    assert files == {
        "config.env": 0o644,
        "tiny.env": 0o644,
        "pepper": 0o600,
        "tls-key": 0o600,
        "local-key": 0o600,
    }
    assert new.knows((paths.LOCAL_KEY).read_text().strip())
    assert main(["usage", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["rows"]
    assert (row["user"], row["requests"]) == ("alice", 1000)
    # the tables are whole: what a trigger counts, and what the next row gets
    old_tables, new_tables = (h.rows(_SCHEMA) for h in (old, new))
    assert new_tables == old_tables and len(new_tables) > 50
    assert new.rows("SELECT verb FROM llama_audit ORDER BY id DESC LIMIT 1") == [("db restore",)]
    assert main(["user", "add", "bob"]) == 0


_SCHEMA = """
SELECT 'column', table_name, column_name, data_type, is_nullable, column_default, is_identity
  FROM information_schema.columns WHERE table_schema = 'public'
 UNION ALL SELECT 'index', tablename, indexdef, '', '', '', '' FROM pg_indexes WHERE schemaname = 'public'
 UNION ALL SELECT 'trigger', tgrelid::regclass::text, pg_get_triggerdef(oid), '', '', '', '' FROM pg_trigger
     WHERE NOT tgisinternal
 UNION ALL SELECT 'constraint', conrelid::regclass::text, pg_get_constraintdef(oid), '', '', '', ''
     FROM pg_constraint WHERE connamespace = 'public'::regnamespace
 UNION ALL SELECT 'owner', relname, pg_get_userbyid(relowner), '', '', '', '' FROM pg_class
     WHERE relnamespace = 'public'::regnamespace
 UNION ALL SELECT 'comment', description, '', '', '', '', '' FROM pg_description
     WHERE objoid >= 16384
 ORDER BY 1, 2, 3
"""


def test_what_is_there_is_replaced_with_force_alone_and_saved_first(old, saved, make_host, capsys):
    new = make_host("new").enter()
    assert main(["user", "add", "bob", "-q"]) == 0
    bobs = capsys.readouterr().out.strip()
    before = new.files()
    assert main(["db", "restore", str(saved)]) == 5
    message, hint = capsys.readouterr().err.splitlines()
    assert "1 user(s) and 0 request(s)" in message and "--force" in hint
    assert new.files() == before and new.knows(bobs)
    assert main(["db", "restore", str(saved), "--force", "--json"]) == 0
    undo = json.loads(capsys.readouterr().out)["saved"]
    assert new.knows(old.key) and not new.knows(bobs)
    assert os.stat(undo).st_mode & 0o7777 == 0o600
    # and back again
    assert main(["db", "restore", undo, "--force"]) == 0
    assert new.knows(bobs) and not new.knows(old.key)


def test_through_a_pipe(old, make_host, tmp_path, monkeypatch):
    class Bytes(io.TextIOWrapper):
        def isatty(self):
            return False

    pipe = io.BytesIO()
    monkeypatch.setattr("sys.stdout", Bytes(pipe))
    assert main(["db", "backup", "-"]) == 0
    new = make_host("new").enter()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(pipe.getvalue())))
    assert main(["db", "restore", "-"]) == 0
    assert new.knows(old.key)


def _truncated(data):
    return data[: len(data) // 2]


def _flipped(data):
    middle = data.index(b"PGDMP") + 400
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :]


def _without_pepper(data):
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=out, mode="w") as new:
        for entry in old:
            if entry.name != archive.PEPPER:
                new.addfile(entry, old.extractfile(entry))
    return out.getvalue()


def _other_tar(data):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        tar.addfile(tarfile.TarInfo("../../etc/passwd"))
    return out.getvalue()


def _from_the_future(data):
    return data.replace(b'"format": 1,', b'"format": 9,')


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (_truncated, "is damaged"),
        (_flipped, "database.dump is not as it was written"),
        (_without_pepper, "credentials/pepper is missing"),
        (_other_tar, "is no backup of llmsvc"),
        (_from_the_future, "which is newer"),
        (lambda data: b"", "is no backup of llmsvc"),
        (lambda data: b"\x85\x01\x0c" + data[:4000], "is no backup of llmsvc"),
    ],
)
def test_a_damaged_or_foreign_file_changes_nothing(saved, make_host, spoil, words, capsys, tmp_path):
    new = make_host("new").enter()
    before = new.files()
    (tmp_path / "bad.tar").write_bytes(spoil(saved.read_bytes()))
    assert main(["db", "restore", str(tmp_path / "bad.tar"), "--force"]) == 1
    message, hint = capsys.readouterr().err.splitlines()
    assert words in message and hint.startswith("hint: ")
    assert new.files() == before
    assert new.rows("SELECT verb FROM llama_audit") == []
    assert list((new.folder / "state").iterdir()) == []


def test_a_database_that_refuses_leaves_all_as_it_was(saved, make_host, capsys):
    new = make_host("new").enter()
    with new.database.connect() as connection:
        # somebody else's table, which needs one of ours
        connection.execute("CREATE FUNCTION llama_other() RETURNS int LANGUAGE sql AS 'SELECT 1'")
        connection.execute("CREATE TABLE theirs (id int)")
    paths.PEPPER.write_text(keys.generate_pepper())
    before = new.files()
    original = process.running

    def dying(argv, **options):
        return original(["false"] if argv[0] == "pg_restore" else argv, **options)

    process.running = dying
    try:
        assert main(["db", "restore", str(saved), "--force"]) == 1
    finally:
        process.running = original
    assert "could not be restored" in capsys.readouterr().err
    assert new.files() == before
    assert new.rows("SELECT llama_other(), count(*) FROM llama_users") == [(1, 0)]
    assert main(["db", "restore", str(saved), "--force"]) == 0
    assert new.rows("SELECT count(*) FROM llama_users WHERE NOT hidden") == [(1,)]
    assert new.rows("SELECT count(*) FROM theirs") == [(0,)]


def test_what_postgresql_says_is_told_and_nobody_waits_for_ever(old, make_host, tmp_path, capsys):
    with old.database.connect() as connection:
        connection.execute(
            "CREATE TABLE a_table AS SELECT n, repeat('x', 200) FROM generate_series(1, 20000) n"
        )
    assert main(["db", "backup", str(tmp_path / "x.tar")]) == 0
    new = make_host("new").enter()
    with new.database.connect() as connection:
        connection.execute("CREATE TABLE a_table (theirs int)")
    assert main(["db", "restore", str(tmp_path / "x.tar")]) == 1
    assert 'relation "a_table" already exists' in capsys.readouterr().err
    assert new.rows("SELECT count(*) FROM llama_users") == [(0,)]


def test_a_backup_with_the_wrong_pepper_is_refused(old, tmp_path, capsys):
    with old.database.connect() as connection:
        meta.bind_pepper(connection, keys.read_pepper(paths.PEPPER))
    paths.PEPPER.write_text(keys.generate_pepper())
    assert main(["db", "backup", str(tmp_path / "x.tar")]) == 78
    assert "not the pepper" in capsys.readouterr().err
    assert not (tmp_path / "x.tar").exists()


def test_in_single_key_mode_there_is_nothing_to_back_up(old, tmp_path, capsys):
    with paths.CONFIG_ENV.open("a") as stream:
        stream.write("LLAMA_PROXY_ENABLED=0\n")
    for command in (["backup", str(tmp_path / "x.tar")], ["restore", str(tmp_path / "x.tar")]):
        assert main(["db", *command]) == 5
        assert "single-key mode" in capsys.readouterr().err


def test_a_file_that_exists_stays(saved, capsys):
    before = saved.read_bytes()
    assert main(["db", "backup", str(saved)]) == 5
    assert saved.read_bytes() == before
    assert main(["db", "backup", str(saved), "--force"]) == 0
    assert main(["db", "backup"]) == 0
    (file,) = paths.SAVED.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600 and paths.SAVED.stat().st_mode & 0o777 == 0o700


def test_what_a_killed_backup_left_is_removed_but_not_what_another_is_at(old, tmp_path):
    left, at_work = paths.STATE / ".backup-left", paths.STATE / ".backup-at-work"
    for folder in (left, at_work):
        (folder / "database").mkdir(parents=True)
    two_days_ago = time.time() - 2 * 86400
    os.utime(left, (two_days_ago, two_days_ago))
    assert main(["db", "backup", str(tmp_path / "new.tar")]) == 0
    assert [folder.name for folder in paths.STATE.glob(".backup-*")] == [at_work.name]
