"""`llmsvc user`: the people and programs that may use the service."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from llmsvc.cli import key, session, welcome
from llmsvc.cli.output import Result, Table
from llmsvc.errors import UsageError

if TYPE_CHECKING:
    from llmsvc.accounts.users import User

_UNCHANGED = object()


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "user",
        help="add, list, change and remove users",
        description="The people and programs that may use the service. Each has keys of its own, and limits "
        "and usage are counted for each.",
        epilog="example:\n  sudo llmsvc user add alice\n  sudo llmsvc user list",
    )
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)

    add = verbs.add_parser(
        "add",
        help="create a user and print a first key",
        description="Creates a user with a first key and prints all that a client needs. The key is shown "
        "this once and works at once.",
        epilog="example:\n  sudo llmsvc user add alice\n  sudo llmsvc user add build-bot --rate-limit 600 -q",
    )
    add.add_argument("name", metavar="NAME", help="lower-case letters, digits, '.', '_', '@' and '-'")
    add.add_argument(
        "--role",
        choices=("user", "admin"),
        default="user",
        help="an admin's key may also read what concerns all users (default: user)",
    )
    add.add_argument(
        "--rate-limit",
        type=_rate_limit,
        metavar="N",
        help="requests per window (default: LLAMA_PROXY_RATE_LIMIT of config.env)",
    )
    add.add_argument(
        "--may-switch",
        action="store_true",
        help="requests may start the model that they name, with LLAMA_PROXY_AUTOSWITCH=1",
    )
    key.add_expires(add)
    add.add_argument("-q", "--quiet", action="store_true", help="print the key alone, for scripts")
    add.set_defaults(command=_add)

    listing = verbs.add_parser(
        "list", help="list all users", epilog="example:\n  sudo llmsvc user list --json"
    )
    listing.set_defaults(command=_list)

    change = verbs.add_parser(
        "set",
        help="change a user's limits and rights",
        description="Changes what is given and leaves the rest. The running proxy takes it up at once.",
        epilog="example:\n  sudo llmsvc user set alice --may-switch\n"
        "  sudo llmsvc user set build-bot --rate-limit default",
    )
    change.add_argument("name", metavar="NAME", help="the user")
    change.add_argument(
        "--may-switch",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="requests may start the model that they name, with LLAMA_PROXY_AUTOSWITCH=1, or may not",
    )
    change.add_argument(
        "--rate-limit",
        type=_rate_limit_or_default,
        default=_UNCHANGED,
        metavar="N",
        help="requests per window; 'default' for LLAMA_PROXY_RATE_LIMIT of config.env",
    )
    change.add_argument(
        "--role", choices=("user", "admin"), help="an admin's key may also read what concerns all users"
    )
    change.set_defaults(command=_set)

    for verb, command, text in (
        ("show", _show, "show a user and its keys"),
        ("disable", _disable, "refuse the user's keys until 'enable'"),
        ("enable", _enable, "accept the user's keys again"),
    ):
        one = verbs.add_parser(
            verb,
            help=text,
            description=text[0].upper() + text[1:] + ".",
            epilog=f"example:\n  sudo llmsvc user {verb} alice",
        )
        one.add_argument("name", metavar="NAME", help="the user")
        one.set_defaults(command=command)

    remove = verbs.add_parser(
        "remove",
        help="revoke all keys for good; the name is never used again (to pause a user: 'disable')",
        description="Revokes all of the user's keys for good. What it used stays in the reports, and its "
        "name is never used again. With --erase the name goes from the database as well: users, requests, "
        "usage and audit then say erased-ID, which is never used again; its client addresses and names of "
        "keys go too. The journal keeps the name until it is rotated. --erase also works on a user that "
        "was removed before.",
        epilog="example:\n  sudo llmsvc user remove alice\n  sudo llmsvc user remove alice --erase",
    )
    remove.add_argument("name", metavar="NAME", help="the user")
    remove.add_argument("--erase", action="store_true", help="replace the name everywhere; cannot be undone")
    remove.add_argument("--yes", action="store_true", help="do not ask before --erase")
    remove.set_defaults(command=_remove)


def _rate_limit(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError(f"must be a number from 1 to 1000000, not {text[:20]!r}")
    return int(text)


def _rate_limit_or_default(text: str) -> int | None:
    return None if text == "default" else _rate_limit(text)


def _add(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import keystore, users

    with session.change("user add", args.name) as connection:
        pepper = session.pepper(connection)
        users.create(
            connection,
            args.name,
            role=args.role,
            rate_limit=args.rate_limit,
            may_switch=args.may_switch,
        )
        new = keystore.add(connection, pepper, args.name, expires_at=args.expires)
        user = users.get(connection, args.name)
    base_url = session.configuration().base_url
    data = {"user": _data(user), "key": new.key, **welcome.details(base_url, new.secret)}
    if args.quiet:
        return Result(data, new.secret)
    return Result(
        data,
        f"user {user.username} ({user.role}) may use the service:\n\n{welcome.welcome(base_url, new.secret)}",
    )


def _list(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import users

    with session.database() as connection:
        found = users.every(connection)
    headers = ("name", "role", "state", "keys", "rate limit", "may switch", "created", "last used")
    rows = [
        (
            u.username,
            u.role,
            u.state,
            u.active_keys,
            u.rate_limit or "default",
            "yes" if u.may_switch else "no",
            u.created_at,
            u.last_used_at,
        )
        for u in found
    ]
    return Result(
        [_data(user) for user in found], Table(headers, rows, "no users; see 'llmsvc user add --help'")
    )


def _show(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import keystore, users
    from llmsvc.cli import output

    with session.database() as connection:
        user = users.get(connection, args.name)
        keys = keystore.active(connection, args.name)
    human = (
        f"{_described(user)}, since {user.created_at.astimezone():%Y-%m-%d}\n\n"
        f"{output.table_text(key.table(keys))}"
    )
    return Result({**_data(user), "keys": keys}, human)


def _set(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import users

    changes: users.Changes = {}
    if args.may_switch is not None:
        changes["may_switch"] = args.may_switch
    if args.rate_limit is not _UNCHANGED:
        changes["rate_limit"] = args.rate_limit
    if args.role is not None:
        changes["role"] = args.role
    if not changes:
        raise UsageError("nothing to change", hint="see 'llmsvc user set --help'")
    told = " ".join(f"{name}={'default' if value is None else value}" for name, value in changes.items())
    with session.change("user set", f"{args.name} {told}") as connection:
        user = users.change(connection, args.name, changes)
    return Result(_data(user), _described(user))


def _disable(args: argparse.Namespace) -> Result:
    return _set_enabled(args.name, False)


def _enable(args: argparse.Namespace) -> Result:
    return _set_enabled(args.name, True)


def _set_enabled(name: str, enabled: bool) -> Result:
    from llmsvc.accounts import users

    verb = "enable" if enabled else "disable"
    with session.change(f"user {verb}", name) as connection:
        user = users.set_enabled(connection, name, enabled)
    return Result(_data(user), f"user {name} is {verb}d")


def _remove(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import users

    if args.erase:
        return _erase(args.name, yes=args.yes)
    with session.change("user remove", args.name) as connection:
        user = users.remove(connection, args.name)
    return Result(_data(user), f"user {args.name} is removed, {user.active_keys} key(s) revoked")


def _erase(name: str, *, yes: bool) -> Result:
    from llmsvc.accounts import audit, erasing

    with session.database() as connection:
        erasing.check(connection, name)
        session.confirm(f"Remove user {name} and replace its name everywhere, for good?", yes=yes)
        with connection.transaction():
            new = erasing.erase(connection, name)
            audit.record(connection, "user remove --erase", new)
    return Result(
        {"name": new, "state": "removed"}, f"the user is removed, and is {new} everywhere from now on"
    )


def _described(user: User) -> str:
    switching = "may switch models" if user.may_switch else "may not switch models"
    return (
        f"{user.username}: {user.role}, {user.state}, rate limit {user.rate_limit or 'default'}, {switching}"
    )


def _data(user: User) -> dict[str, object]:
    return {
        "name": user.username,
        "role": user.role,
        "state": user.state,
        "active_keys": user.active_keys,
        "rate_limit": user.rate_limit,
        "may_switch": user.may_switch,
        "created_at": user.created_at,
        "last_used_at": user.last_used_at,
    }
