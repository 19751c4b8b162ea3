"""`llmsvc key`: further keys of users, and their end."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmsvc.cli import session, welcome
from llmsvc.cli.output import Result, Table

if TYPE_CHECKING:
    from llmsvc.accounts.keystore import Key


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "key",
        help="add, list and revoke API keys",
        description="API keys. A user may have several, so that the key of one machine can be revoked "
        "alone. Keys are not stored, only what it takes to recognise them.",
        epilog="example:\n  sudo llmsvc key add alice --name laptop\n  sudo llmsvc key revoke alice/laptop",
    )
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    add = verbs.add_parser(
        "add",
        help="make another key for a user and print it",
        description="Makes another key for a user and prints all that a client needs. The key is shown this "
        "once and works at once.",
        epilog="example:\n  sudo llmsvc key add alice --name laptop",
    )
    add.add_argument("user", metavar="USER", help="whose key it is")
    add.add_argument(
        "--name", metavar="NAME", help="to tell the user's keys apart (default: key-1, key-2, …)"
    )
    add.add_argument("-q", "--quiet", action="store_true", help="print the key alone, for scripts")
    add.set_defaults(command=_add)

    listing = verbs.add_parser(
        "list",
        help="list the keys that are not revoked",
        description="Lists the keys that are not revoked, of all users or of one.",
        epilog="example:\n  sudo llmsvc key list alice",
    )
    listing.add_argument("user", metavar="USER", nargs="?", help="only this user's")
    listing.set_defaults(command=_list)

    revoke = verbs.add_parser(
        "revoke",
        help="end a key for good, within a second",
        description="Ends a key for good. Requests with it are refused within a second.",
        epilog="example:\n  sudo llmsvc key revoke 7\n  sudo llmsvc key revoke sk-llm-4fJq2x\n"
        "  sudo llmsvc key revoke alice/laptop",
    )
    revoke.add_argument(
        "key", metavar="ID|PREFIX|USER/NAME", help="the key, by what 'llmsvc key list' shows of it"
    )
    revoke.set_defaults(command=_revoke)


def table(keys: Sequence[Key]) -> Table:
    """Keys for people."""
    headers = ("id", "user", "name", "key", "created", "last used", "expires")
    rows = [
        (k.id, k.username, k.name, f"{k.prefix}…", k.created_at, k.last_used_at, k.expires_at) for k in keys
    ]
    return Table(headers, rows, "no keys; see 'llmsvc key add --help'")


def _add(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import keystore

    thing = f"{args.user}/{args.name}" if args.name else args.user
    with session.change("key add", thing) as connection:
        new = keystore.add(connection, session.pepper(connection), args.user, name=args.name)
    base_url = session.configuration().base_url
    data = {"key": new.key, **welcome.details(base_url, new.secret)}
    if args.quiet:
        return Result(data, new.secret)
    return Result(data, f"key {new.key.name!r} of {args.user}:\n\n{welcome.welcome(base_url, new.secret)}")


def _list(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import keystore

    with session.database() as connection:
        found = keystore.active(connection, args.user)
    return Result(found, table(found))


def _revoke(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import keystore

    with session.database() as connection:
        thing = keystore.find(connection, args.key)
    with session.change("key revoke", f"{thing.username}/{thing.name} ({thing.prefix})") as connection:
        key = keystore.revoke(connection, str(thing.id))
    return Result(key, f"key {key.prefix}… ({key.username}/{key.name}) is revoked")
