"""The completion of zsh, which shows what each word means."""

from __future__ import annotations

from llmsvc.cli.completion.tree import DIR, FILE, MODEL, SOURCE, Command, Word
from llmsvc.library import catalogue

_HEAD = r"""#compdef llmsvc
# Completion of zsh for llmsvc; made by 'llmsvc completion zsh'.

_llmsvc_models() {
    local -a models
    models=(/etc/llmsvc/models.d/*.env(N:t:r))
    compadd -- $models
}

_llmsvc_sources() {
    compadd -- %(catalogue)s
    _files -g '*.gguf'
}
"""


def script(root: Command) -> str:
    """The file `_llmsvc` for a directory of fpath."""
    parts = [_HEAD % {"catalogue": " ".join(catalogue.load())}]
    parts += [_function(command) for command in root.walk()]
    return "\n".join([*parts, '_llmsvc "$@"\n'])


def _name(command: Command) -> str:
    return "_".join(("_llmsvc", *command.path))


def _function(command: Command) -> str:
    rules = []
    for option in command.options:
        flags = option.flags
        excluded = f"({' '.join(flags)})" if len(flags) > 1 else ""
        value = f":{_text(option.takes.shown)}:{_action(option.takes)}" if option.takes else ""
        rules += [_quoted(f"{excluded}{flag}[{_text(option.help)}]{value}") for flag in flags]
    below = [other for other in command.commands if not other.internal]
    if not below:
        for word in command.words:
            rules.append(_quoted(f"{':' if word.optional else ''}:{_text(word.shown)}:{_action(word)}"))
        lines = [f"{_name(command)}() {{", "    _arguments -s : \\"]
        lines += [f"        {rule} \\" for rule in rules]
        return "\n".join([*lines, "        && return", "}"])
    names = [f"        {_quoted(f'{_colon(other.path[-1])}:{other.help}')}" for other in below]
    lines = [
        f"{_name(command)}() {{",
        "    local curcontext=$curcontext state line",
        "    local -a commands",
        "    commands=(",
        *names,
        "    )",
        "    _arguments -C : \\",
        *(f"        {rule} \\" for rule in rules),
        "        '1: :->command' \\",
        "        '*:: :->rest' && return",
        "    case $state in",
        "    command) _describe -t commands command commands ;;",
        "    rest)",
        "        curcontext=${curcontext%:*}-$line[1]:",
        "        case $line[1] in",
        *(f"        {other.path[-1]}) {_name(other)} ;;" for other in below),
        "        esac",
        "        ;;",
        "    esac",
        "}",
    ]
    return "\n".join(lines)


def _action(word: Word) -> str:
    if word.choices:
        return f"({' '.join(word.choices)})"
    return {FILE: "_files", DIR: "_files -/", MODEL: "_llmsvc_models", SOURCE: "_llmsvc_sources"}.get(
        word.kind, " "
    )


def _text(text: str) -> str:
    """Text within a rule of _arguments, where brackets and colons mean something."""
    for char in "\\[]:":
        text = text.replace(char, f"\\{char}")
    return text


def _colon(text: str) -> str:
    return text.replace(":", "\\:")


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "'\\''") + "'"
