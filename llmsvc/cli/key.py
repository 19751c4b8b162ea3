"""`llmsvc key`: further keys of users, their replacement and their end."""

from __future__ import annotations

import argparse
import dataclasses
import getpass
import io
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from llmsvc import paths
from llmsvc.cli import moments, output, session, welcome
from llmsvc.cli.output import Result, Table
from llmsvc.errors import UsageError

if TYPE_CHECKING:
    from llmsvc.accounts.keystore import Key

_KEY = re.compile(r"sk-llm-[0-9A-Za-z]+")
"""Whatever was meant to be a key, in what somebody pasted: OPENAI_API_KEY='sk-llm-…'."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "key",
        help="add, list, rotate and revoke API keys, find the owner of one",
        description="API keys. A user may have several, so that the key of one machine can be revoked "
        "alone. Keys are not stored, only what it takes to recognise them.",
        epilog="example:\n  sudo llmsvc key add alice --name laptop --expires 30d\n"
        "  sudo llmsvc key rotate alice/laptop --grace 24h\n  sudo llmsvc key revoke alice/laptop",
    )
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    add = verbs.add_parser(
        "add",
        help="make another key for a user and print it",
        description="Makes another key for a user and prints all that a client needs. The key is shown this "
        "once and works at once.",
        epilog="example:\n  sudo llmsvc key add alice --name laptop\n"
        "  sudo llmsvc key add alice --name course --expires 2027-01-01\n"
        "  sudo llmsvc key add webui --on-behalf-of X-OpenWebUI-User-Email",
    )
    add.add_argument("user", metavar="USER", help="whose key it is")
    add.add_argument(
        "--name", metavar="NAME", help="to tell the user's keys apart (default: key-1, key-2, …)"
    )
    add_expires(add)
    add.add_argument(
        "--on-behalf-of",
        metavar="HEADER",
        help="the key is that of a trusted front end, which says in this header who is asking: each of these "
        "has limits, turns in the queue and a line in 'usage --by end-user' of its own",
    )
    add.add_argument("-q", "--quiet", action="store_true", help="print the key alone, for scripts")
    add.set_defaults(command=_add)

    listing = verbs.add_parser(
        "list",
        help="list the keys that are not revoked",
        description="Lists the keys that are not revoked, of all users or of one: their state (active, "
        "expired, disabled with their user), when they end and when they were last used.",
        epilog="example:\n  sudo llmsvc key list alice\n  sudo llmsvc key list --all --json",
    )
    listing.add_argument("user", metavar="USER", nargs="?", help="only this user's")
    listing.add_argument("--all", action="store_true", help="also those that are revoked")
    listing.set_defaults(command=_list)

    rotate = verbs.add_parser(
        "rotate",
        help="replace a key; the old one works on for a while",
        description="Makes a new key with the name of the old one and prints it. The old one works until "
        "the grace is over, under the name NAME.old-ID, so that nobody is cut off while clients change "
        "over.",
        epilog="example:\n  sudo llmsvc key rotate alice/laptop --grace 24h\n"
        "  sudo llmsvc key rotate 7 --grace 0h --expires 90d",
    )
    _add_key(rotate)
    rotate.add_argument(
        "--grace",
        type=moments.span,
        default="24h",
        metavar="SPAN",
        help="how long the old key still works: 30m, 24h, 7d; 0h ends it at once (default: 24h)",
    )
    add_expires(rotate, "as long after now as the old one after it was made")
    rotate.add_argument("-q", "--quiet", action="store_true", help="print the new key alone, for scripts")
    rotate.set_defaults(command=_rotate)

    whois = verbs.add_parser(
        "whois",
        help="tell whose key this is: for one that was found somewhere",
        description="Reads a key from standard input and tells its owner, state, last use, and from where "
        "its last requests came. The key is not taken as an argument, for everybody could read it in the "
        "list of processes and in the history of the shell.",
        epilog="example:\n  sudo llmsvc key whois -               asks for the key\n"
        "  sudo llmsvc key whois - < found.txt",
    )
    whois.add_argument("source", metavar="-", nargs="*", help="standard input")
    whois.set_defaults(command=_whois)

    revoke = verbs.add_parser(
        "revoke",
        help="end a key for good, within a second",
        description="Ends a key for good. Requests with it are refused within a second.",
        epilog="example:\n  sudo llmsvc key revoke 7\n  sudo llmsvc key revoke sk-llm-4fJq2x\n"
        "  sudo llmsvc key revoke alice/laptop",
    )
    _add_key(revoke)
    revoke.set_defaults(command=_revoke)


def add_expires(parser: argparse.ArgumentParser, default: str = "never") -> None:
    """Adds --expires, as every command has it that makes a key."""
    parser.add_argument(
        "--expires",
        type=moments.future,
        metavar="WHEN",
        help=f"when the key ends: 30d, 12h, 2027-01-01, 2027-01-01T18:00 (default: {default})",
    )


def _add_key(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "key", metavar="ID|PREFIX|USER/NAME", help="the key, by what 'llmsvc key list' shows of it"
    )


def table(keys: Sequence[Key]) -> Table:
    """Keys for people."""
    headers: tuple[str, ...] = ("id", "user", "name", "key", "state", "created", "last used", "expires")
    rows: list[tuple[object, ...]] = [
        (k.id, k.username, k.name, f"{k.prefix}…", k.state, k.created_at, k.last_used_at, k.expires_at)
        for k in keys
    ]
    if any(key.on_behalf_of for key in keys):
        headers = (*headers, "on behalf of")
        rows = [(*row, key.on_behalf_of) for row, key in zip(rows, keys, strict=True)]
    return Table(headers, rows, "no keys; see 'llmsvc key add --help'")


def _add(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import keystore

    thing = f"{args.user}/{args.name}" if args.name else args.user
    if args.on_behalf_of is not None:
        thing += f" (on_behalf_of={args.on_behalf_of.lower()})"
    with session.change("key add", thing) as connection:
        pepper = session.pepper(connection)
        new = keystore.add(
            connection,
            pepper,
            args.user,
            name=args.name,
            expires_at=args.expires,
            on_behalf_of=args.on_behalf_of,
        )
    base_url = session.configuration().told_url
    data = {"key": new.key, **welcome.details(base_url, new.secret)}
    if args.quiet:
        return Result(data, new.secret)
    return Result(data, f"{_told(new.key)}:\n\n{welcome.welcome(base_url, new.secret)}")


def _list(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import keystore

    with session.database() as connection:
        found = keystore.active(connection, args.user, revoked=args.all)
    return Result(found, table(found))


def _rotate(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import keystore

    with session.database() as connection:
        thing = keystore.find(connection, args.key)
    with session.change("key rotate", _audited(thing)) as connection:
        new, old = keystore.rotate(
            connection, session.pepper(connection), str(thing.id), grace=args.grace, expires_at=args.expires
        )
    base_url = session.configuration().told_url
    data = {"key": new.key, "old_key": old, **welcome.details(base_url, new.secret)}
    if args.quiet:
        return Result(data, new.secret)
    end = "is revoked" if old.revoked_at else f"works until {output.cell(old.expires_at)}"
    return Result(
        data,
        f"{_told(new.key)}:\n\n{welcome.welcome(base_url, new.secret)}\n\n"
        f"The old key {old.prefix}… ({old.username}/{old.name}) {end}.",
    )


def _whois(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import whois

    if args.source != ["-"]:
        # what was typed must not come back in a message: it may be the key
        raise UsageError(
            "the key is read from standard input, never from the command line, where everybody can see it",
            hint="'llmsvc key whois -' asks for it; a key that was typed as an argument is best revoked",
        )
    key = _typed_key()
    with session.database() as connection:
        owner, addresses = whois.look_up(connection, session.pepper(connection), key)
    rows: list[tuple[str, object]] = [
        ("key", f"{owner.prefix}…"),
        ("user", f"{owner.username} ({owner.role})"),
        ("name", f"{owner.name}, id {owner.key_id}"),
        ("state", owner.state),
        ("created", owner.created_at),
        ("expires", owner.expires_at),
        ("revoked", owner.revoked_at),
        ("last used", owner.last_used_at),
        ("on behalf of", owner.on_behalf_of),
    ]
    if owner.hidden:
        rows[1] = ("user", f"{owner.username}: this machine's own checks, {paths.LOCAL_KEY}")
    rows += [
        ("from", f"{a.address}: {a.requests} of its last requests, {output.cell(a.last)}") for a in addresses
    ]
    shown = [row for row in rows if row[1] is not None]
    return Result({**dataclasses.asdict(owner), "addresses": addresses}, Table(("what", "value"), shown))


def _typed_key() -> str:
    """The key from standard input, not shown on a terminal; without what else stands on its line."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="replace")
    try:
        text = getpass.getpass("key: ") if sys.stdin.isatty() else sys.stdin.read(4096)
    except EOFError:
        text = ""
    found = _KEY.search(text)
    return found[0] if found else text.strip()


def _revoke(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import keystore

    with session.database() as connection:
        thing = keystore.find(connection, args.key)
    with session.change("key revoke", _audited(thing)) as connection:
        key = keystore.revoke(connection, str(thing.id))
    return Result(key, f"key {key.prefix}… ({key.username}/{key.name}) is revoked")


def _told(key: Key) -> str:
    end = f", which expires {output.cell(key.expires_at)}" if key.expires_at else ""
    asking = f", in whose requests {key.on_behalf_of} says who is asking" if key.on_behalf_of else ""
    return f"key {key.name!r} of {key.username}{end}{asking}"


def _audited(key: Key) -> str:
    return f"{key.username}/{key.name} ({key.prefix})"
