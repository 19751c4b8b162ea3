"""`llmsvc uninstall`: takes away what `llmsvc install` made."""

from __future__ import annotations

import argparse
import shutil

from llmsvc.cli import session
from llmsvc.cli.install import PENDING, alone, report
from llmsvc.cli.output import Result


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the command line."""
    parser = subparsers.add_parser(
        "uninstall",
        help="take it off this machine again",
        description="Stops the services and removes what 'llmsvc install' wrote: units, links, rules.\n"
        "Settings, models, keys, users and the database stay, and another install finds them.\n"
        "With --purge these go too, for ever. At the end it lists what it left on purpose.",
        epilog="examples:\n"
        "  sudo llmsvc uninstall --dry-run\n"
        "  sudo llmsvc uninstall\n"
        "  sudo llmsvc uninstall --purge\n"
        "  sudo /opt/llmsvc/venv/bin/llmsvc uninstall --purge      # after an uninstall without it",
    )
    parser.add_argument(
        "--purge",
        action="store_true",
        help="also settings, models, database, users, credentials, programs, and your drop-ins of our units",
    )
    parser.add_argument("--dry-run", action="store_true", help="change nothing; print what would be removed")
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.set_defaults(command=_uninstall)


def _uninstall(args: argparse.Namespace) -> Result:
    from llmsvc import paths
    from llmsvc.errors import UsageError
    from llmsvc.process import require_root

    require_root("uninstalling")
    if paths.PACKAGED:
        raise UsageError(
            "this llmsvc belongs to a package", hint="apt remove llmsvc, or apt purge llmsvc with all data"
        )
    # all of it now: a purge removes what we run from
    from installer import undo, uninstall
    from llmsvc.cli import output as _output  # noqa: F401

    if args.dry_run:
        plan = uninstall.plan(purge=args.purge)
        titles = [step.title for step in plan.steps]
        lines = [*titles, "", "What stays:", *(f"  {line}" for line in plan.left)]
        return Result({"pending": titles, "left": plan.left}, "\n".join(lines), PENDING if titles else 0)
    if args.purge:
        session.confirm(
            "This removes llmsvc with all models, users, keys, settings and the record of requests. Go on?",
            yes=args.yes,
        )
    with alone():
        undo.recover(report)
        plan = uninstall.plan(purge=args.purge)
        for step in plan.steps:
            report(step.title)
            step.do()
        if args.purge:
            shutil.rmtree(paths.INSTALL_LOCK, ignore_errors=True)
    lines = ["llmsvc is uninstalled. Left on purpose:", *(f"  {line}" for line in plan.left)]
    if not args.purge:
        lines.append("To be rid of its data too: sudo /opt/llmsvc/venv/bin/llmsvc uninstall --purge")
    return Result({"removed": [step.title for step in plan.steps], "left": plan.left}, "\n".join(lines))
