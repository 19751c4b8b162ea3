"""`llmsvc db`: the database's own upkeep."""

from __future__ import annotations

import argparse

from llmsvc.cli import backup, session
from llmsvc.cli.output import Result


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "db",
        help="create, migrate, prune, back up and restore the database",
        description="The database with users, keys and the ledger of requests. 'llmsvc install' does all of "
        "this by itself.",
        epilog="example:\n  sudo llmsvc db migrate",
    )
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    init = verbs.add_parser(
        "init",
        help="create role, database and tables where they are missing",
        description="Creates the role, the database and its tables in the local PostgreSQL, each only where "
        "it is missing. May be run again at any time.",
        epilog="example:\n  sudo llmsvc db init",
    )
    init.set_defaults(command=_init)
    migrate = verbs.add_parser(
        "migrate",
        help="bring the tables to this version",
        description="Applies the migrations that this version has and the database has not. May be run again "
        "at any time, and by several at once.",
        epilog="example:\n  sudo llmsvc db migrate",
    )
    migrate.set_defaults(command=_migrate)
    prune = verbs.add_parser(
        "prune",
        help="remove single requests that are older than the retention",
        description="Removes the rows of requests that are older than LLAMA_LEDGER_RETENTION_DAYS of "
        "config.env; 0 keeps them for ever. Their sums by day stay in 'llmsvc usage'. llmsvc-prune.timer "
        "does it every night. It may be interrupted, and be run by several at once.",
        epilog="example:\n  sudo llmsvc db prune --dry-run",
    )
    prune.add_argument("--dry-run", action="store_true", help="only say what would be removed")
    prune.set_defaults(command=_prune)
    backup.add_parsers(verbs)


def _init(args: argparse.Namespace) -> Result:
    from llmsvc import process
    from llmsvc.database import provision

    process.require_root("'llmsvc db init'")
    config = session.configuration()
    role = provision.create_role(config)
    database = provision.create_database(config)
    applied = _apply("db init")
    done = [f"role {config.postgres_auth_user}"] if role else []
    done += [f"database {config.postgres_auth_db}"] if database else []
    done += [f"migration {name}" for name in applied]
    return Result(
        {"role_created": role, "database_created": database, "migrations": applied},
        f"created {', '.join(done)}" if done else "nothing to do",
    )


def _migrate(args: argparse.Namespace) -> Result:
    applied = _apply("db migrate")
    return Result({"migrations": applied}, f"applied {', '.join(applied)}" if applied else "nothing to do")


def _prune(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import audit, erasing, retention
    from llmsvc.library.progress import ProgressLine

    days = session.configuration().llama_ledger_retention_days
    if not args.dry_run:
        with session.database() as connection:
            erasing.forget(connection)
    if not days:
        return Result(
            {"before": None, "rows": 0}, "nothing to do: LLAMA_LEDGER_RETENTION_DAYS=0 keeps all requests"
        )
    before = retention.boundary(days)
    told = f"requests from before {before:%Y-%m-%d} UTC, {days} days ago"
    with session.database() as connection:
        if args.dry_run:
            count = retention.due(connection, before)
            return Result({"before": before, "rows": count}, f"would remove {count} {told}")
        with ProgressLine(quiet=getattr(args, "json", False)) as line:
            count = retention.prune(
                connection, before, lambda done: line.show("removing requests", f"{done}")
            )
        if count:
            audit.record(connection, "db prune", f"{count} {told}")
    return Result({"before": before, "rows": count}, f"removed {count} {told}")


def _apply(verb: str) -> list[str]:
    from llmsvc import database
    from llmsvc.accounts import audit

    with database.connect(session.configuration()) as connection:
        applied = database.migrate(connection)
        if applied:
            audit.record(connection, verb, ", ".join(applied))
    return applied
