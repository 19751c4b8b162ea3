"""Connects to the database, and says in one line why that is not possible."""

from __future__ import annotations

import contextlib

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from llmsvc import paths, process
from llmsvc.config import Config
from llmsvc.errors import UnavailableError

Connection = psycopg.Connection[TupleRow]

_CONNECT_SECONDS = 5


def conninfo(config: Config) -> str:
    """The libpq connection string of the configured database; no secret is in it."""
    return make_conninfo(
        host=config.postgres_auth_host,
        port=config.postgres_auth_port,
        dbname=config.postgres_auth_db,
        user=config.postgres_auth_user,
        sslmode=config.postgres_auth_sslmode,
        application_name="llmsvc",
        connect_timeout=_CONNECT_SECONDS,
        # a SQL_ASCII database would else give bytes where we expect text
        client_encoding="UTF8",
    )


def connect(config: Config) -> Connection:
    """An autocommit connection. Over the local socket root takes the identity of the proxy's user for it.

    :raises UnavailableError: PostgreSQL does not answer, or the database or role does not exist
    :raises DeniedError: we are neither root nor the proxy's user
    """
    local = config.postgres_auth_host.startswith("/")
    with process.identity(paths.PROXY_USER) if local else contextlib.nullcontext():
        try:
            return psycopg.connect(conninfo(config), autocommit=True)
        except psycopg.OperationalError as error:
            raise _explained(error, config) from None


def _explained(error: psycopg.OperationalError, config: Config) -> UnavailableError:
    """What went wrong in our words. libpq gives no SQLSTATE for a refused login, only the server's text."""
    said = str(error).strip()
    last = said.splitlines()[-1].strip() if said else "no answer"
    database, role = config.postgres_auth_db, config.postgres_auth_user
    where = f"{config.postgres_auth_host}, port {config.postgres_auth_port}"
    if "FATAL:" not in said:
        return UnavailableError(
            f"PostgreSQL does not answer at {where}: {last}",
            hint=f"see 'systemctl status postgresql', and POSTGRES_AUTH_HOST and _PORT in {paths.CONFIG_ENV}",
        )
    reason = said.rsplit("FATAL:", 1)[1].strip().splitlines()[0]
    hint = "see 'journalctl -u \"postgresql*\"'"
    if f'"{database}" does not exist' in reason or f'"{role}" does not exist' in reason:
        hint = "run 'sudo llmsvc install', which creates role and database"
    elif "authentication failed" in reason:
        hint = f"pg_hba.conf must let role {role} in by peer authentication"
    return UnavailableError(f"PostgreSQL at {where} refuses the connection: {reason}", hint=hint)
