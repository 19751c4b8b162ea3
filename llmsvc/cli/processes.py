"""`llmsvc backend NAME` and `llmsvc proxy`: the services' own commands, run by systemd."""

from __future__ import annotations

import argparse


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds both to the command line."""
    backend = subparsers.add_parser(
        "backend",
        help="serve one model (run by llama-server@NAME.service)",
        description="Serves the model of /etc/llmsvc/models.d/NAME.env on /run/llama-server/NAME/http.sock.",
        epilog="Not to be run by hand: systemctl start llama-server@NAME",
    )
    backend.add_argument("name", metavar="NAME")
    backend.set_defaults(command=_backend)
    proxy = subparsers.add_parser(
        "proxy",
        help="serve the clients (run by auth-proxy.service)",
        description="Checks keys and limits, queues, forwards to the loaded model and keeps the ledger.",
        epilog="Not to be run by hand: systemctl start auth-proxy",
    )
    proxy.set_defaults(command=_proxy)


def _backend(arguments: argparse.Namespace) -> int:
    from llmsvc.backend import main

    return main.main(arguments.name)


def _proxy(arguments: argparse.Namespace) -> int:
    from llmsvc.proxy import main

    return main.main()
