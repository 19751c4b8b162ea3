"""The completion of fish."""

from __future__ import annotations

from llmsvc.cli.completion.tree import DIR, FILE, MODEL, SOURCE, Command, Word
from llmsvc.library import catalogue

_HEAD = r"""# Completion of fish for llmsvc; made by 'llmsvc completion fish'.
function __llmsvc_models
    for file in /etc/llmsvc/models.d/*.env
        string replace -r '.*/(.*)\.env$' '$1' -- $file
    end
end

# Whether the words so far lead to this command, and, with a second argument, have as many words after it
function __llmsvc_at
    set -l valued %(valued)s
    set -l commands %(commands)s
    set -l at
    set -l place 0
    set -l value no
    for word in (commandline -opc)[2..-1]
        if test $value = yes
            set value no
        else if string match -q -- '-*' $word
            contains -- "$at[-1]:$word" $valued; and set value yes
        else if contains -- (string join ' ' $at $word) $commands
            set at (string join ' ' $at $word)
        else
            set place (math $place + 1)
        end
    end
    test "$at" = "$argv[1]"; and begin
        test (count $argv) -lt 2; or test $place = $argv[2]
    end
end

complete -c llmsvc -f
"""


def script(root: Command) -> str:
    """The file for a directory of fish's completions."""
    valued, commands, lines = [], [], []
    for command in root.walk():
        at = " ".join(command.path)
        commands += [_quoted(at)] if at else []
        for below in command.commands:
            if not below.internal:
                lines.append(f"{_at(at)} -a {_quoted(below.path[-1])} -d {_quoted(below.help)}")
        for option in command.options:
            flags = " ".join(f"-l {f[2:]}" if f.startswith("--") else f"-s {f[1:]}" for f in option.flags)
            takes = ""
            if option.takes:
                takes = f" {_values(option.takes)}"
                valued += [_quoted(f"{at}:{flag}") for flag in option.flags]
            lines.append(f"{_at(at)} {flags}{takes} -d {_quoted(option.help)}")
        for place, word in enumerate(command.words):
            values = _values(word).removeprefix("-x").removeprefix("-r")
            if values:
                lines.append(f"{_at(at, place)} {values.strip()} -d {_quoted(word.shown)}")
    head = _HEAD % {"valued": " ".join(valued), "commands": " ".join(commands)}
    return "\n".join([head, *lines, ""])


def _at(at: str, place: int | None = None) -> str:
    asked = f"__llmsvc_at {_inner(at)}" + ("" if place is None else f" {place}")
    return f"complete -c llmsvc -n {_quoted(asked)}"


def _values(word: Word) -> str:
    """The options of `complete` for a value; -r: any file, -x: nothing but what follows."""
    if word.choices:
        return f"-x -a {_quoted(' '.join(word.choices))}"
    named = {
        FILE: "-r -F",
        DIR: "-x -a '(__fish_complete_directories)'",
        MODEL: "-x -a '(__llmsvc_models)'",
        SOURCE: f"-r -F -a {_quoted(' '.join(catalogue.load()))}",
    }
    return named.get(word.kind, "-x")


def _quoted(text: str) -> str:
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


def _inner(text: str) -> str:
    return f'"{text}"'
