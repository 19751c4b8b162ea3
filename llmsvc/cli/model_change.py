"""`llmsvc model set|use|verify|schedule|remove`: what changes, checks and ends an installed model."""

from __future__ import annotations

import argparse
from pathlib import Path

from llmsvc import paths
from llmsvc.cli import service, session, switching
from llmsvc.cli.output import Result, Table
from llmsvc.errors import EX_CONFIG, DeniedError, SettingError, UsageError
from llmsvc.process import require_root

_NAME = "the model, as 'llmsvc model list' calls it"


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds them to `llmsvc model`."""
    _add_set_parser(verbs)
    use = verbs.add_parser(
        "use",
        help="switch to a model now, and start it at boot from now on",
        description="Switches to a model now, and starts it at boot from now on.",
        epilog="example:\n  sudo llmsvc model use gemma3",
    )
    use.add_argument("name", metavar="MODEL", help=_NAME)
    service.add_force(use)
    use.set_defaults(command=_use)
    _add_verify_parser(verbs)
    _add_schedule_parser(verbs)
    remove = verbs.add_parser(
        "remove",
        help="remove a model that does not run, and its file unless another needs it",
        description="Removes a model that does not run, its schedule, and its file unless another model "
        "needs it or it lies outside of the library; tells how much space that frees.",
        epilog="example:\n  sudo llmsvc model remove gemma3",
    )
    remove.add_argument("name", metavar="MODEL", help=_NAME)
    remove.set_defaults(command=_remove)


# ---------------------------------------------------------------------------------------------------------
# set


def _add_set_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "set",
        help="change settings of a model",
        description="Changes settings in /etc/llmsvc/models.d/NAME.env, all of them or none, and checks them "
        "first; comments and what else you wrote there stay. KEY= alone goes back to the default. They count "
        "from the model's next start on.",
        epilog="example:\n  sudo llmsvc model set mistral N_CTX=8192 FLASH_ATTN=1\n"
        "  sudo llmsvc model set mistral N_CTX=\n  sudo llmsvc restart mistral",
    )
    parser.add_argument("name", metavar="MODEL", help=_NAME)
    parser.add_argument(
        "values", nargs="+", metavar="KEY=VALUE", help="as 'llmsvc model show NAME' lists them"
    )
    parser.set_defaults(command=_set)


def _set(args: argparse.Namespace) -> Result:
    require_root("changing a model's settings")
    from llmsvc.library import settings, store

    values = dict(map(_assignment, args.values))
    changed = store.change(args.name, values)
    if changed:
        session.note("model set", f"{args.name} {' '.join(sorted(values))}")
    loaded = settings.load(args.name)
    told = {key: {"value": loaded[key], "source": loaded.source(key)} for key in values}
    warning = _why_it_would_not_start(args.name)
    lines = [
        f"{key} is {'automatic' if one['value'] in (None, '') else one['value']}  ({one['source']})"
        for key, one in told.items()
    ]
    if warning:
        lines.append(f"warning: {warning}")
    if changed:
        lines.append(f"it counts from the next start on: sudo llmsvc restart {args.name}")
    return Result(
        {"name": args.name, "changed": changed, "settings": told, "warning": warning}, "\n".join(lines)
    )


def _assignment(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise UsageError(f"{text[:60]!r} is not KEY=VALUE", hint="such as N_CTX=8192; KEY= for the default")
    if any(ord(c) < 32 for c in value):
        raise UsageError(f"{key[:40]}: control characters are not allowed")
    return key.strip(), value.strip()


def _why_it_would_not_start(name: str) -> str | None:
    """What is wrong beyond the settings themselves; what runs may have to stop for it to be right."""
    from llmsvc.library import fit, gguf, memory, settings

    loaded = settings.load(name)
    try:
        fit.check(loaded, gguf.read_header(loaded.model), memory.room(name))
    except (SettingError, fit.FitError) as error:
        return f"{error.message}; {error.hint}" if error.hint else error.message
    return None


# ---------------------------------------------------------------------------------------------------------
# use


def _use(args: argparse.Namespace) -> Result:
    try:
        require_root("choosing the default model")
    except DeniedError as error:
        error.hint = f"{error.hint}; members of {paths.ADMIN_GROUP} may 'llmsvc start {args.name}'"
        raise
    from llmsvc.cli.model import data
    from llmsvc.library import store
    from llmsvc.systemd import manager

    try:
        switching.start(args.name, force=args.force, quiet=getattr(args, "json", False))
    except switching.LeftError as error:
        error.hint = f"{error.hint}; the default model is as before: run it again to change that"
        raise
    # Only now: a model that never got ready must not be what the next boot, or a rollback, starts.
    changed = store.set_default(args.name)
    if changed:
        manager.daemon_reload()
    session.note("model use", args.name)
    return Result(
        data(store.model(args.name)) | {"changed": changed},
        f"model {args.name} answers now, and is what starts at boot",
    )


# ---------------------------------------------------------------------------------------------------------
# verify


def _add_verify_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "verify",
        help="read models again and compare them with their recorded sha256",
        description="Reads one model, or all, from disk and compares settings, GGUF header and sha256 with "
        "what is recorded. Exit status 78 if one is broken.",
        epilog="example:\n  sudo llmsvc model verify\n  sudo llmsvc model verify mistral --json",
    )
    parser.add_argument("name", nargs="?", metavar="MODEL", help=f"{_NAME} (default: all)")
    parser.set_defaults(command=_verify)


def _verify(args: argparse.Namespace) -> Result:
    from llmsvc.library import store, verifying
    from llmsvc.library.progress import ProgressLine

    config = session.configuration()
    with ProgressLine(quiet=getattr(args, "json", False)) as line:

        def progress(file: Path, done: int, size: int) -> None:
            line.show(f"verifying {file.name}", f"{100 * done // max(size, 1)} %")

        names = [args.name] if args.name else store.names()
        verdicts = [verifying.verify(name, config, progress) for name in names]
    rows = [(one.name, one.file.name if one.file else None, one.state, one.problem or "") for one in verdicts]
    table = Table(("name", "file", "state", "problem"), rows, "no models")
    broken = any(one.state == "broken" for one in verdicts)
    return Result(verdicts, table, EX_CONFIG if broken else 0)


# ---------------------------------------------------------------------------------------------------------
# schedule


def _add_schedule_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "schedule",
        help="switch to models at certain times",
        description="Switches to a model at certain times, by a timer of systemd's. Without arguments, or "
        "with 'list', the times of all models are shown. Before it switches the model is checked, as by "
        "'llmsvc start': one that cannot start leaves the running one alone.",
        epilog='example:\n  sudo llmsvc model schedule coder --on-calendar "Mon..Fri 08:00"\n'
        '  sudo llmsvc model schedule mistral --on-calendar "Mon..Fri 18:00"\n'
        "  llmsvc model schedule list\n  sudo llmsvc model schedule remove coder",
    )
    parser.add_argument(
        "words",
        nargs="*",
        metavar="NAME | list | remove NAME",
        help="a model; or what to do instead of adding",
    )
    parser.add_argument(
        "--on-calendar",
        dest="times",
        action="append",
        default=[],
        metavar="TIME",
        help="when, as OnCalendar= of systemd.time(7); with remove: only this one. May be repeated",
    )
    parser.set_defaults(command=_schedule)


def _schedule(args: argparse.Namespace) -> Result:
    match args.words:
        case [] | ["list"] if not args.times:
            return _schedules()
        case ["remove", name]:
            return _unschedule(name, args.times)
        case [name] if name not in ("list", "remove"):
            return _schedules(name) if not args.times else _add_times(name, args.times)
    raise UsageError(
        "that makes no sense", hint="llmsvc model schedule NAME --on-calendar TIME | list | remove NAME"
    )


def _schedules(name: str | None = None) -> Result:
    from llmsvc.library import store
    from llmsvc.systemd import schedule

    if name:
        store.require(name)
    found = [schedule.get(name)] if name else schedule.every()
    rows = [(one.name, time, one.next) for one in found for time in one.times]
    empty = "no schedules; sudo llmsvc model schedule NAME --on-calendar 'Mon..Fri 08:00' makes one"
    return Result(found, Table(("name", "time", "next"), rows, empty))


def _add_times(name: str, times: list[str]) -> Result:
    require_root("scheduling a model")
    from llmsvc.library import store
    from llmsvc.systemd import schedule

    store.require(name)
    changed = schedule.add(name, times)
    if changed:
        session.note("model schedule", f"{name} {', '.join(times)}")
    now = schedule.get(name)
    told = {"name": name, "times": now.times, "next": now.next, "changed": changed}
    soon = f"\nthe next time: {now.next}" if now.next else ""
    return Result(told, f"{name} is switched to at {', '.join(now.times)}{soon}")


def _unschedule(name: str, times: list[str]) -> Result:
    require_root("scheduling a model")
    from llmsvc.systemd import schedule

    schedule.remove(name, times)
    session.note("model schedule", f"{name} removed {', '.join(times)}".strip())
    left = schedule.get(name).times
    return Result(
        {"name": name, "times": left, "changed": True},
        f"{name} is switched to at {', '.join(left)}" if left else f"{name} has no schedule any more",
    )


# ---------------------------------------------------------------------------------------------------------
# remove


def _remove(args: argparse.Namespace) -> Result:
    require_root("removing a model")
    from llmsvc.library import store
    from llmsvc.library.progress import size
    from llmsvc.systemd import manager, schedule

    removed = store.remove(args.name, session.configuration())
    if schedule.get(args.name).times:
        schedule.remove(args.name, [])
    manager.reload_where_booted()
    session.note("model remove", removed.name)
    files = ", ".join(file.name for file in removed.files) or "no file"
    return Result(removed, f"model {removed.name} is removed: {files}, {size(removed.freed)} free again")
