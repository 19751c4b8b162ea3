"""Opens the database for a command: as the right user, with the schema it expects, and with one audit row."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmsvc import paths
from llmsvc.errors import UnavailableError

if TYPE_CHECKING:
    from llmsvc.config import Config
    from llmsvc.database import Connection


def configuration() -> Config:
    """The settings of this machine."""
    from llmsvc import config

    return config.load(paths.CONFIG_ENV)


@contextlib.contextmanager
def database() -> Iterator[Connection]:
    """A connection to the configured database.

    :raises UnavailableError: PostgreSQL does not answer, or the schema is older than this version
    :raises DeniedError: we are not root
    """
    import psycopg

    from llmsvc import database

    with database.connect(configuration()) as connection:
        try:
            if database.pending(connection):
                raise UnavailableError(
                    "the database does not have the tables of this version",
                    hint="run 'sudo llmsvc db migrate'",
                )
            yield connection
        except psycopg.OperationalError as error:
            raise UnavailableError(
                f"PostgreSQL gave up: {str(error).strip().splitlines()[0]}",
                hint="see 'systemctl status postgresql'",
            ) from None


@contextlib.contextmanager
def change(verb: str, thing: str) -> Iterator[Connection]:
    """A transaction for a changing command, with its audit row: all of it happens, or nothing."""
    from llmsvc.accounts import audit

    with database() as connection, connection.transaction():
        yield connection
        audit.record(connection, verb, thing)


def pepper(connection: Connection) -> bytes:
    """The pepper of this machine, checked to be the one of the database."""
    from llmsvc.accounts import keys, meta

    value = keys.read_pepper(paths.PEPPER)
    meta.bind_pepper(connection, value)
    return value
