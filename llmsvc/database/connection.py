"""Connects to the database, and says in one line why that is not possible."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

import psycopg
from psycopg.conninfo import make_conninfo
from psycopg.rows import TupleRow

from llmsvc import paths, process
from llmsvc.config import Config
from llmsvc.errors import UnavailableError

Connection = psycopg.Connection[TupleRow]

_CONNECT_SECONDS = 5


def password() -> str | None:
    """The password of a database that is reached over TCP, from a service's credentials or root's file."""
    directory = os.environ.get("CREDENTIALS_DIRECTORY")
    name = paths.DATABASE_PASSWORD.name
    try:
        file = Path(directory, name) if directory else paths.DATABASE_PASSWORD
        return file.read_text(encoding="utf-8").rstrip("\n") or None
    except (FileNotFoundError, PermissionError):
        return None


def conninfo(config: Config, secret: str | None = None) -> str:
    """The libpq connection string of the configured database. It is a secret where the database is reached
    over TCP: it holds the password.

    :param secret: the password; what password() says by default
    """
    over_tcp: dict[str, Any] = {}
    if not config.local_database:
        over_tcp["password"] = secret or password()
        if config.verifies_database:
            over_tcp["sslrootcert"] = str(config.postgres_auth_sslrootcert)
    return make_conninfo(
        **over_tcp,
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


def connect(config: Config, secret: str | None = None) -> Connection:
    """An autocommit connection. Over the local socket root takes the identity of the proxy's user for it.

    :param secret: see conninfo()
    :raises UnavailableError: PostgreSQL does not answer, or the database or role does not exist
    :raises DeniedError: we are neither root nor the proxy's user
    """
    # libpq adds what else it finds there, as PGSERVICE or PGOPTIONS of an admin's shell
    for name in [name for name in os.environ if name.startswith("PG")]:
        del os.environ[name]
    with process.identity(paths.PROXY_USER) if config.local_database else contextlib.nullcontext():
        try:
            return psycopg.connect(conninfo(config, secret), autocommit=True)
        except psycopg.OperationalError as error:
            raise _explained(error, config) from None


def _explained(error: psycopg.OperationalError, config: Config) -> UnavailableError:
    """What went wrong in our words. libpq gives no SQLSTATE for a refused login, only the server's text."""
    said = str(error).strip()
    lines = [line.strip() for line in said.splitlines() if not line.startswith("\t")]  # libpq's advice
    last = lines[-1] if lines else "no answer"
    database, role = config.postgres_auth_db, config.postgres_auth_user
    where = f"{config.postgres_auth_host}, port {config.postgres_auth_port}"
    if not config.local_database and ("certificate" in last or "SSL" in last or "TLS" in last):
        return UnavailableError(
            f"no secure connection to PostgreSQL at {where}: {last}",
            hint="POSTGRES_AUTH_SSLMODE and _SSLROOTCERT say what is asked of its certificate",
        )
    if config.local_database and "no password supplied" in last:
        return UnavailableError(
            f"PostgreSQL at {where} asks role {role} for a password",
            hint=f"pg_hba.conf must let it in by peer authentication: local {database} {role} peer",
        )
    if "FATAL:" not in said:
        return UnavailableError(
            f"PostgreSQL does not answer at {where}: {last}",
            hint=f"see 'systemctl status postgresql', and POSTGRES_AUTH_HOST and _PORT in {paths.CONFIG_ENV}",
        )
    reason = said.rsplit("FATAL:", 1)[1].strip().splitlines()[0]
    hint = "see 'journalctl -u \"postgresql*\"'"
    if not config.local_database:
        hint = (
            f"is {paths.DATABASE_PASSWORD} right? 'llmsvc install --database-password-file FILE' replaces it"
        )
        if "does not exist" in reason:
            hint = f"role {role} and database {database} must be there: CREATE ROLE … LOGIN PASSWORD …"
    elif f'"{database}" does not exist' in reason or f'"{role}" does not exist' in reason:
        hint = "run 'sudo llmsvc install', which creates role and database"
    elif "authentication failed" in reason:
        hint = f"pg_hba.conf must let role {role} in by peer authentication"
    elif "not permitted to log in" in reason:
        hint = f"""sudo -u postgres psql -c 'ALTER ROLE "{role}" LOGIN'"""
    return UnavailableError(f"PostgreSQL at {where} refuses the connection: {reason}", hint=hint)
