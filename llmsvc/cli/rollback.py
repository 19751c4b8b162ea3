"""`llmsvc rollback NAME`: run by llama-server-rollback@NAME.service after that model failed."""

from __future__ import annotations

import argparse

from llmsvc.cli.output import Result


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the command line."""
    parser = subparsers.add_parser(
        "rollback",
        help="go back to the last good model (run by llama-server-rollback@NAME.service)",
        description="Starts the last model that was ready before NAME, unless another one runs already.",
        epilog="Not to be run by hand: 'llmsvc start MODEL' starts the model that you want.",
    )
    parser.add_argument("name", metavar="NAME", help="the model that failed")
    parser.set_defaults(command=_rollback)


def _rollback(arguments: argparse.Namespace) -> Result:
    from llmsvc.process import require_root
    from llmsvc.systemd import journal, rollback

    require_root("going back to another model")
    started = rollback.roll_back(arguments.name, journal.Journal("llmsvc-rollback"))
    return Result({"failed": arguments.name, "started": started}, "")
