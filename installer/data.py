"""The part of the plan that lies in the database: its tables, this machine's own key, the first user."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from installer.actions import Action, Step
from installer.undo import Undo
from llmsvc import __version__, atomic, paths
from llmsvc.accounts import audit, keys, keystore, local, meta, users
from llmsvc.config import Config
from llmsvc.database import Connection, connect, dump, schema
from llmsvc.errors import Error

FIRST_USER = "admin"


class Accounts:
    """The actions.

    :ivar key: the first user's key, once it was made
    """

    def __init__(self, config: Config, password: str | None, key_file: Path | None) -> None:
        self.key: str | None = None
        self._config = config
        self._password = password
        self._key_file = key_file
        self.one_key = Step("key", "make the one key", lambda: not paths.API_KEY.exists(), self._make_one_key)
        """The key of single-key mode."""
        self.local_key: Action
        self.first_user: Action

    def check(self) -> None:
        """:raises UnavailableError: the database does not answer"""
        self._connect().close()

    def _connect(self) -> Connection:
        return connect(self._config, self._password)

    def migrations(self, needs: Iterable[Action]) -> Iterator[Action]:
        """The tables, and the backup before they are changed.

        :param needs: what makes role and database
        """
        migrate = Step(
            "sql",
            "apply the database migrations",
            self._pending,
            self._migrate,
            needs=needs,
            details=self._sql,
        )
        yield migrate
        self.local_key = Step(
            "key", "make this machine's own key", self._local_key_due, self._make_local_key, needs=[migrate]
        )
        self.first_user = Step(
            "key",
            f"create the first user, {FIRST_USER}",
            self._first_user_due,
            lambda _undo: self._first_user(),
            needs=[migrate],
        )

    def _make_one_key(self, undo: Undo) -> None:
        self.key = keys.generate()
        undo.file(paths.API_KEY)
        atomic.write(paths.API_KEY, self.key + "\n", 0o600)
        if self._key_file:
            undo.file(self._key_file)
            atomic.write(self._key_file, self.key + "\n", 0o600)

    def _pending(self) -> bool:
        with self._connect() as connection:
            return bool(schema.pending(connection))

    def _sql(self) -> str:
        try:
            with self._connect() as connection:
                names = schema.pending(connection)
        except Error:  # no database yet: it will need all of them
            names = list(schema.known())
        return "\n".join(f"-- {name}\n{schema.known()[name]}" for name in names)

    def _migrate(self, undo: Undo) -> None:
        with self._connect() as connection:
            if not undo.new_database:
                undo.directories([paths.BACKUPS])
                undo.appearing([paths.DUMPING])
                undo.migration(dump.make(self._config, f"before-{__version__}"))
            schema.migrate(connection)

    def _local_key_due(self) -> bool:
        if not paths.PEPPER.exists():
            return True
        with self._connect() as connection:
            pepper = keys.read_pepper(paths.PEPPER)
            row = connection.execute(meta.FINGERPRINT_QUERY).fetchone()
            meta.compare(row[0] if row else None, pepper)
            return not local.is_current(connection, pepper, paths.LOCAL_KEY)

    def _make_local_key(self, undo: Undo) -> None:
        undo.file(paths.LOCAL_KEY)
        with self._connect() as connection:
            pepper = keys.read_pepper(paths.PEPPER)
            meta.bind_pepper(connection, pepper)
            local.ensure(connection, pepper, paths.LOCAL_KEY)

    def _first_user_due(self) -> bool:
        with self._connect() as connection:
            return not users.every(connection)

    def _first_user(self) -> None:
        pepper = keys.read_pepper(paths.PEPPER)
        with self._connect() as connection, connection.transaction():
            users.create(connection, FIRST_USER, role="admin")
            self.key = keystore.add(connection, pepper, FIRST_USER).secret
            audit.record(connection, "user add", FIRST_USER)
            # before the commit: a file that cannot be written must not cost the only sight of the key
            if self._key_file:
                atomic.write(self._key_file, self.key + "\n", 0o600)
