"""The command line as a tree of commands, read from the argparse definition."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator

FILE, DIR, MODEL, SOURCE = "file", "dir", "model", "source"
"""What a word may be, if no list: a file, a directory, an installed model, or what `model add` takes."""
_KINDS = {"FILE": FILE, "DIR": DIR, "MODEL": MODEL, "WHAT": SOURCE}
_OF_SYSTEMD = "Run by systemd"


@dataclasses.dataclass(frozen=True)
class Word:
    """A value that somebody types.

    :ivar shown: as help calls it
    :ivar kind: one of the kinds above; empty where nothing is known
    :ivar choices: all that it may be; empty where that is no list
    """

    shown: str
    kind: str
    choices: tuple[str, ...]
    help: str
    optional: bool = False


@dataclasses.dataclass(frozen=True)
class Option:
    """An option. `takes` is None for one without a value."""

    flags: tuple[str, ...]
    help: str
    takes: Word | None


@dataclasses.dataclass(frozen=True)
class Command:
    """A command with what may follow it. `path` has the words that lead to it, without `llmsvc`."""

    path: tuple[str, ...]
    help: str
    description: str
    epilog: str
    options: tuple[Option, ...]
    words: tuple[Word, ...]
    commands: tuple[Command, ...]
    internal: bool = False
    """systemd runs it; no person does."""

    def walk(self) -> Iterator[Command]:
        """This command and all below it; those of systemd are left out."""
        yield self
        for command in self.commands:
            if not command.internal:
                yield from command.walk()


def read() -> Command:
    """The command line of llmsvc."""
    from llmsvc.cli import main

    return _command(main.RootParser(), (), "", frozenset(main.GROUPS[_OF_SYSTEMD]))


def _command(
    parser: argparse.ArgumentParser, path: tuple[str, ...], text: str, internal: frozenset[str]
) -> Command:
    options, words, commands = [], [], []
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            texts = {choice.dest: choice.help or "" for choice in action._choices_actions}
            commands = [
                _command(below, (*path, name), texts.get(name, ""), internal)
                for name, below in action.choices.items()
            ]
        elif action.help != argparse.SUPPRESS:
            if action.option_strings:
                takes = None if action.nargs == 0 else _word(action)
                options.append(Option(tuple(action.option_strings), _help(action), takes))
            else:
                words.append(_word(action))
    return Command(
        path,
        text,
        parser.description or "",
        parser.epilog or "",
        tuple(options),
        tuple(words),
        tuple(commands),
        internal=len(path) == 1 and path[0] in internal,
    )


def _word(action: argparse.Action) -> Word:
    shown = str(action.metavar or action.dest.upper())
    choices = tuple(str(choice) for choice in action.choices or ())
    if choices and not action.metavar:
        shown = "|".join(choices)
    return Word(shown, _KINDS.get(shown, ""), choices, _help(action), action.nargs in ("?", "*"))


def _help(action: argparse.Action) -> str:
    return (action.help or "").replace("%(default)s", str(action.default)).replace("%%", "%")
