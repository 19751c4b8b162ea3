"""`llmsvc user`: the people and programs that may use the service."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from llmsvc.cli import key, limits, session, welcome
from llmsvc.cli.output import Result, Table, printable
from llmsvc.errors import UsageError

if TYPE_CHECKING:
    from llmsvc.accounts.users import User


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
        epilog="example:\n  sudo llmsvc user add alice\n"
        "  sudo llmsvc user add build-bot --rate-limit 600 --concurrent 4 -q\n"
        "  sudo llmsvc user add course --models smollm2,gemma3 --tokens-per-day 200k --expires 90d",
    )
    add.add_argument("name", metavar="NAME", help="lower-case letters, digits, '.', '_', '@' and '-'")
    limits.add_options(add, change=False)
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
        epilog="example:\n  sudo llmsvc user set alice --may-switch --weight 3\n"
        "  sudo llmsvc user set alice --models all --tokens-per-day 2M\n"
        "  sudo llmsvc user set build-bot --rate-limit default",
    )
    change.add_argument("name", metavar="NAME", help="the user")
    limits.add_options(change, change=True)
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
        "usage and audit then say erased-ID, which is never used again; its client addresses, names of keys "
        "and, for a front end, the names of its users go too, and so does an end user of the same name in "
        "any front end. The journal keeps the name until it is rotated. --erase also works on a user that "
        "was removed before.",
        epilog="example:\n  sudo llmsvc user remove alice\n  sudo llmsvc user remove alice --erase",
    )
    remove.add_argument("name", metavar="NAME", help="the user")
    remove.add_argument("--erase", action="store_true", help="replace the name everywhere; cannot be undone")
    remove.add_argument("--yes", action="store_true", help="do not ask before --erase")
    remove.set_defaults(command=_remove)

    end_user = verbs.add_parser(
        "erase-end-user",
        help="replace the name of a front end's user in requests and usage",
        description="For a person who used the service through a trusted front end such as Open WebUI and "
        "wants to be forgotten: the name that the front end gave becomes erased-N in all requests and sums, "
        "and client addresses go. The numbers stay. Whoever asks again through the front end is recorded "
        "again, so end the account there first. The journal keeps the name until it is rotated.",
        epilog="example:\n  sudo llmsvc usage --by end-user\n"
        "  sudo llmsvc user erase-end-user bob@example.org\n"
        "  sudo llmsvc user erase-end-user bob@example.org --front-end webui --yes",
    )
    end_user.add_argument(
        "name", type=session.utf8, metavar="NAME", help="as 'llmsvc usage --by end-user' shows it"
    )
    end_user.add_argument(
        "--front-end", metavar="USER", help="only in what this user's keys brought (default: in all)"
    )
    end_user.add_argument("--yes", action="store_true", help="do not ask")
    end_user.set_defaults(command=_erase_end_user)


def _add(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import keystore, users

    with session.change("user add", args.name) as connection:
        pepper = session.pepper(connection)
        users.create(connection, args.name, **limits.given(args))
        new = keystore.add(connection, pepper, args.name, expires_at=args.expires)
        user = users.get(connection, args.name)
    base_url = session.configuration().told_url
    data = {"user": _data(user), "key": new.key, **welcome.details(base_url, new.secret)}
    if args.quiet:
        return Result(data, new.secret)
    return Result(
        data,
        f"user {user.username} ({user.role}) may use the service:\n\n{welcome.welcome(base_url, new.secret)}"
        f"{_not_installed(user)}",
    )


def _list(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import users

    with session.database() as connection:
        found = users.every(connection)
    headers = ("name", "role", "state", "keys", "limits", "models", "may switch", "created", "last used")
    rows = [
        (
            u.username,
            u.role,
            u.state,
            u.active_keys,
            limits.own(u),
            ",".join(u.models) if u.models else "all",
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
    tables = (limits.table(user, session.configuration()), key.table(keys))
    human = "\n\n".join(
        [
            f"{user.username}: {_rights(user)}, since {user.created_at.astimezone():%Y-%m-%d}",
            *(output.table_text(table) for table in tables),
        ]
    )
    return Result({**_data(user), "keys": keys}, human)


def _set(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import users

    changes = limits.given(args)
    if not changes:
        raise UsageError("nothing to change", hint="see 'llmsvc user set --help'")
    with session.change("user set", f"{args.name} {limits.told(changes)}") as connection:
        user = users.change(connection, args.name, changes)
    return Result(_data(user), _described(user) + _not_installed(user))


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


def _erase_end_user(args: argparse.Namespace) -> Result:
    from llmsvc.accounts import audit, erasing

    with session.database() as connection:
        front_ends = ", ".join(erasing.check_end_user(connection, args.name, args.front_end))
        question = f"Replace the name {args.name} in all that came through {front_ends}, for good?"
        session.confirm(printable(question), yes=args.yes)
        with connection.transaction():
            erased = erasing.erase_end_user(connection, args.name, args.front_end)
            for one in erased:
                audit.record(connection, "user erase-end-user", f"{one.username} {one.alias}")
    told = " and ".join(f"{one.alias} in what came through {one.username}" for one in erased)
    return Result(
        [{"front_end": one.username, "name": one.alias} for one in erased],
        f"the end user is {told} from now on",
    )


def _described(user: User) -> str:
    own = limits.own(user)
    return f"{user.username}: {_rights(user)}, {'default limits' if own == 'default' else own}"


def _rights(user: User) -> str:
    models = f"models {', '.join(user.models)}" if user.models else "all models"
    switching = "may switch models" if user.may_switch else "may not switch models"
    return f"{user.role}, {user.state}, {models}, {switching}"


def _not_installed(user: User) -> str:
    """A note to append about allowed models that are not there, for one may be mistyped."""
    missing = limits.unknown_models(user.models)
    return f"\n\nnote: not installed now: {', '.join(missing)} (see 'llmsvc model list')" if missing else ""


def _data(user: User) -> dict[str, object]:
    return {
        "name": user.username,
        "role": user.role,
        "state": user.state,
        "active_keys": user.active_keys,
        **limits.data(user),
        "created_at": user.created_at,
        "last_used_at": user.last_used_at,
    }
