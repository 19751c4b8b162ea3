"""The command `llmsvc`: finds the verb, runs it, and turns its result or error into output and exit code."""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Sequence
from typing import Any, NoReturn

import llmsvc
from llmsvc.cli import (
    alert,
    ask,
    audit,
    completion,
    db,
    doctor,
    install,
    key,
    model,
    output,
    processes,
    render,
    requests,
    rollback,
    service,
    status,
    uninstall,
    upgrade,
    usage,
    user,
)
from llmsvc.env import closest_hint
from llmsvc.errors import Error, UsageError

_INTERRUPTED = 130
_BROKEN_PIPE = 141

# Each verb file has add_parser(), which sets `command` to a function from the arguments to a Result, or, for
# a command that runs on and prints for itself, to an exit code.
_VERBS = (
    install,
    upgrade,
    uninstall,
    render,
    doctor,
    model,
    service,
    status,
    ask,
    user,
    key,
    usage,
    requests,
    audit,
    db,
    completion,
    rollback,
    alert,
    processes,
)

GROUPS = {
    "Set up": ("install", "upgrade", "uninstall", "doctor", "render"),
    "Models": ("model", "start", "stop", "restart", "status", "ask"),
    "People": ("user", "key"),
    "Reports": ("usage", "requests", "audit"),
    "Database": ("db",),
    "Shell": ("completion",),
    "Run by systemd": ("backend", "proxy", "rollback", "alert"),
}

_INTRODUCTION = """\
A shared LLM server for this machine, run by systemd: one model at a time, one
API key a person. Clients are OpenAI clients with another base URL.

First steps:
  sudo llmsvc install                      set everything up and print a first key
  sudo llmsvc user add alice               make a key for Alice
  sudo systemctl start llama-server@NAME   switch to another model
  journalctl -u auth-proxy -f              watch requests"""

_EPILOG = """\
'llmsvc COMMAND --help' tells more. With --json every command prints one JSON
document to stdout, also about an error: {"error": {"type", "message", "hint", "exit_code"}}.

Exit status: 0 done, 1 failed, 2 wrong usage, 3 no such thing, 4 not permitted,
5 exists or in use, 6 a needed part does not answer, 78 bad setting, 130 interrupted."""


class _Formatter(argparse.RawDescriptionHelpFormatter):
    """Fills prose, and leaves a text of several lines, such as an example, as it is."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        if "\n" in text:
            return super()._fill_text(text, width, indent)
        return argparse.HelpFormatter._fill_text(self, text, width, indent)


class Parser(argparse.ArgumentParser):
    """argparse with our ways: errors are ours, --json everywhere, examples keep their line breaks."""

    def __init__(self, **options: Any) -> None:
        options.setdefault("formatter_class", _Formatter)
        super().__init__(allow_abbrev=False, **options)
        # without a default, or a subcommand's would undo what was given before it
        self.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="print JSON, for programs"
        )
        # of nested parsers, the innermost one's stays
        self.set_defaults(parser=self)

    def unknown(self, arguments: list[str]) -> NoReturn:
        """Refuses arguments that nothing asked for, with the option that may have been meant.

        :raises UsageError: always
        """
        # argparse keeps the options only in this private table
        meant = closest_hint(arguments[0].partition("=")[0], self._option_string_actions)
        hint = f"{meant or ''} see '{self.prog} --help'".lstrip()
        raise UsageError(f"unrecognized arguments: {' '.join(arguments)}", hint=hint)

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, hint=f"see '{self.prog} --help'")


class RootParser(Parser):
    """The parser of `llmsvc` itself, whose help shows the commands in groups."""

    def __init__(self) -> None:
        super().__init__(prog="llmsvc", description=_INTRODUCTION, epilog=_EPILOG)
        self.add_argument("--version", action="version", version=f"llmsvc {llmsvc.__version__}")
        self.commands = self.add_subparsers(
            metavar="COMMAND", title="commands", help=argparse.SUPPRESS, parser_class=Parser
        )
        for verb in _VERBS:
            verb.add_parser(self.commands)

    def format_help(self) -> str:
        # argparse has no groups of subcommands; it keeps their help texts only in this private list
        texts = {action.dest: action.help or "" for action in self.commands._choices_actions}
        lines = ["usage: llmsvc [--json] COMMAND …", "", _INTRODUCTION, ""]
        for title, names in GROUPS.items():
            known = [name for name in names if name in texts]
            if known:
                lines += [f"{title}:", *(f"  {name:<12}{texts[name]}" for name in known), ""]
        lines += ["Options:", "  --json      print JSON, for programs", "  --version   print the version", ""]
        return "\n".join([*lines, _EPILOG, ""])


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code; see errors.py for what the codes mean."""
    arguments = sys.argv[1:] if argv is None else list(argv)
    as_json = "--json" in arguments
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale may lack what a name or a message holds
    try:
        code = _run(arguments)
        # here rather than at exit, where a closed pipe would be told as an ignored exception
        if sys.stdout:  # else it was closed before we started: >&-
            sys.stdout.flush()
    except Error as error:
        output.show_error(error, as_json=as_json)
        return error.exit_code
    except KeyboardInterrupt:
        print(file=sys.stderr)
        return _INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except OSError as error:  # a full disk, a read-only file system, a directory where a file should be
        failed = Error(f"{error.filename or 'output'}: {error.strerror or error}")
        if isinstance(error, FileNotFoundError) and error.filename is None:  # os.getcwd()
            failed = Error("the current directory is not there any more", hint="go to another one: cd")
        output.show_error(failed, as_json=as_json)
        return failed.exit_code
    return code


def _run(arguments: list[str]) -> int:
    parser = RootParser()
    # parse_args() would name the help of the outermost parser
    args, unknown = parser.parse_known_args(arguments)
    if unknown:
        args.parser.unknown(unknown)
    command = getattr(args, "command", None)
    if command is None:
        parser.print_help()
        return 0
    result = command(args)
    if isinstance(result, output.Result):
        output.show(result, as_json=getattr(args, "json", False))
        return result.exit_code
    return int(result)
