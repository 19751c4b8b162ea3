"""Opens the database for a command: as the right user, with the schema it expects, and with one audit row."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from llmsvc import paths
from llmsvc.errors import Error, UnavailableError, UsageError

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

    settings = configuration()
    if not settings.llama_proxy_enabled:
        raise UsageError(
            "in single-key mode there are no users, no keys of their own and no record of requests",
            hint="'llmsvc install --proxy' brings them, and those of before, back",
        )
    with database.connect(settings) as connection:
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


def note(verb: str, thing: str) -> None:
    """The audit row of a change that was made outside of the database, such as a switch of the model.

    Where it cannot be written the journal has it: the change is done, and there may be no database. Members
    of llmsvc-admin, who may not write it, have their entries in the journal too.
    """
    import psycopg

    from llmsvc.accounts import audit
    from llmsvc.actor import actor
    from llmsvc.systemd import journal

    if os.geteuid() != 0:
        return
    try:
        with database() as connection:
            audit.record(connection, verb, thing)
    except (Error, psycopg.Error) as error:
        reason = str(error).strip().splitlines() or [type(error).__name__]
        journal.note("llmsvc", f"not in llama_audit: {actor()}, {verb} {thing}: {reason[0]}", {})


def pepper(connection: Connection) -> bytes:
    """The pepper of this machine, checked to be the one of the database."""
    from llmsvc.accounts import keys, meta

    value = keys.read_pepper(paths.PEPPER)
    meta.bind_pepper(connection, value)
    return value


def utf8(text: str) -> str:
    """What may be asked of the database; for argparse."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise argparse.ArgumentTypeError(f"{text[:80]!r} is no text in UTF-8") from None
    return text


def one_format(args: argparse.Namespace) -> None:
    """Raises UsageError if both --csv and --json are asked for."""
    if getattr(args, "csv", False) and getattr(args, "json", False):
        raise UsageError("--csv and --json are two formats", hint="choose one of them")


def confirm(question: str, *, yes: bool) -> None:
    """Asks on the terminal before what cannot be undone.

    :param yes: do not ask
    :raises UsageError: the answer is no, or nobody is there to ask
    """
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(
            "this cannot be undone, and there is no terminal to ask on", hint="add --yes to do it"
        )
    print(f"{question} [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("nothing was changed")
