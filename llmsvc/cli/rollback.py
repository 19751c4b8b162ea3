"""`llmsvc rollback`: run by llama-server-rollback@NAME.service and by llmsvc-retry.service."""

from __future__ import annotations

import argparse

from llmsvc.cli.output import Result
from llmsvc.errors import UsageError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the command line."""
    parser = subparsers.add_parser(
        "rollback",
        help="go back to the last good model (run by llama-server-rollback@NAME.service)",
        description="Starts the last model that was ready before NAME, unless another one runs already.",
        epilog="Not to be run by hand: 'llmsvc start MODEL' starts the model that you want.",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="the model that failed")
    parser.add_argument("--retry", action="store_true", help="wait for the next retry (llmsvc-retry.service)")
    parser.set_defaults(command=_rollback)


def _rollback(arguments: argparse.Namespace) -> Result:
    from llmsvc.library import store
    from llmsvc.process import require_root
    from llmsvc.systemd import journal, rollback

    if bool(arguments.name) == arguments.retry:
        raise UsageError("either NAME or --retry", hint="see 'llmsvc rollback --help'")
    require_root("going back to another model")
    log = journal.Journal("llmsvc-rollback")
    if arguments.retry:
        rollback.retry(store.default_model, log)
        return Result(None, "")
    return Result(rollback.roll_back(arguments.name, store.default_model(), log), "")
