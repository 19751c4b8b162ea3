"""The manual page llmsvc(1), in roff."""

from __future__ import annotations

import llmsvc
from llmsvc import paths
from llmsvc.cli.completion.tree import Command, Word

_FILES = (
    (str(paths.CONFIG_ENV), "Settings, each documented in it."),
    (f"{paths.MODELS_D}/NAME.env", "Settings of the model NAME."),
    (str(paths.DEFAULT_MODEL), "A link to the settings of the model that starts at boot."),
    (f"{paths.CREDENTIALS}/", "Secrets, for root alone."),
    (f"{paths.MODELS}/", "Model files, each with its sha256 and origin beside it."),
    (str(paths.SAVED), "Backups of 'llmsvc db backup' that got no other place."),
)
_UNITS = (
    ("llama-server@NAME.service", "The model NAME; starting one stops the one that runs."),
    ("auth-proxy.socket, auth-proxy.service", "Where clients connect: keys, limits, queue, ledger."),
    ("llmsvc-alert@KIND.service", "Started when something needs a person; a drop-in makes it a mail."),
)
_ENVIRONMENT = (
    ("OPENAI_API_KEY", "The key of 'llmsvc ask', for those who are not root."),
    ("NO_COLOR", "No colours on a terminal."),
)


def page(root: Command) -> str:
    """The page."""
    name, _, rest = root.description.partition("\n\n")
    lines = [
        f'.TH LLMSVC 1 "" "llmsvc {llmsvc.__version__}" "llmsvc"',
        ".SH NAME",
        "llmsvc \\- a shared LLM server for one Linux machine, run by systemd",
        ".SH SYNOPSIS",
        ".B llmsvc",
        "[\\fB\\-\\-json\\fR] \\fICOMMAND\\fR [\\fIOPTION\\fR]...",
        ".SH DESCRIPTION",
        _text(name),
        ".PP",
        *_literal(rest),
        ".SH COMMANDS",
    ]
    for command in root.walk():
        if command.path and not command.commands:
            lines += _command(command)
    lines += [".SH OUTPUT AND EXIT STATUS", *_literal(root.epilog)]
    for title, rows in (("FILES", _FILES), ("UNITS", _UNITS), ("ENVIRONMENT", _ENVIRONMENT)):
        lines.append(f".SH {title}")
        for term, text in rows:
            lines += [".TP", f"\\fB{_text(term)}\\fR", _text(text)]
    lines += [".SH SEE ALSO", "\\fBsystemctl\\fR(1), \\fBjournalctl\\fR(1), \\fBsystemd.unit\\fR(5)"]
    return "\n".join([*lines, ""])


def _command(command: Command) -> list[str]:
    title = " ".join(("llmsvc", *command.path))
    words = "".join(f" {_word(word)}" for word in command.words)
    own = [option for option in command.options if "--json" not in option.flags and "-h" not in option.flags]
    options = " [\\fIOPTION\\fR]..." if own else ""
    lines = [f".SS \\fB{_text(title)}\\fR{options}{words}"]
    lines += _prose(command.description or f"{command.help[:1].upper()}{command.help[1:]}.")
    for word in command.words:
        if word.help:
            lines += [".TP", f"\\fI{_text(word.shown)}\\fR", _text(word.help)]
    for option in own:
        flags = ", ".join(f"\\fB{_text(flag)}\\fR" for flag in option.flags)
        value = f" \\fI{_text(option.takes.shown)}\\fR" if option.takes else ""
        lines += [".TP", f"{flags}{value}", _text(option.help)]
    if command.epilog:
        lines += [".PP", *_literal(command.epilog)]
    return lines


def _word(word: Word) -> str:
    shown = f"\\fI{_text(word.shown)}\\fR"
    return f"[{shown}]" if word.optional else shown


def _prose(text: str) -> list[str]:
    """Paragraphs, filled anew."""
    lines: list[str] = []
    for paragraph in text.split("\n\n"):
        lines += [*([".PP"] if lines else []), _text(" ".join(paragraph.split()))]
    return lines


def _literal(text: str) -> list[str]:
    """Text of several lines as it is, such as examples."""
    return [".nf", *(_text(line) for line in text.splitlines()), ".fi"] if text else []


def _text(text: str) -> str:
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("…", "...").replace("→", "->")
    # a line that begins so would be a request
    return f"\\&{text}" if text[:1] in (".", "'") else text
