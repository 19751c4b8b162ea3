"""`llmsvc completion`: the command line for shells and man(1), made from the argparse definition."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

from llmsvc import paths
from llmsvc.cli.output import Result

SHELLS = ("bash", "zsh", "fish")
KINDS = (*SHELLS, "man")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the command line."""
    parser = subparsers.add_parser(
        "completion",
        help="print the completions of a shell, or the manual page",
        description="Prints what completes the commands, options, models and files of llmsvc in a shell, or\n"
        "the manual page. An installation has all of them; this is for a shell that looks elsewhere.",
        epilog="examples:\n"
        "  llmsvc completion bash >~/.local/share/bash-completion/completions/llmsvc\n"
        "  llmsvc completion fish >~/.config/fish/completions/llmsvc.fish\n"
        "  llmsvc completion zsh >/usr/local/share/zsh/site-functions/_llmsvc\n"
        "  llmsvc completion man | man -l -",
    )
    parser.add_argument("kind", choices=KINDS, metavar="|".join(KINDS), help="what to print")
    parser.set_defaults(command=lambda args: Result({"text": text(args.kind)}, text(args.kind).rstrip("\n")))


def files() -> dict[Path, str]:
    """What an installation has: path to text; a package brings them itself."""
    return {} if paths.PACKAGED else {path: text(kind) for kind, path in paths.COMPLETIONS.items()}


def text(kind: str) -> str:
    """The file of one of KINDS."""
    from llmsvc.cli.completion import bash, fish, man, tree, zsh

    makers: dict[str, Callable[[tree.Command], str]] = {
        "bash": bash.script,
        "zsh": zsh.script,
        "fish": fish.script,
        "man": man.page,
    }
    return makers[kind](tree.read())
