"""The completion of bash."""

from __future__ import annotations

import shlex

from llmsvc.cli.completion.tree import DIR, FILE, MODEL, SOURCE, Command, Word
from llmsvc.library import catalogue

_SCRIPT = r"""# Completion of bash for llmsvc; made by 'llmsvc completion bash'.
_llmsvc_models() {
    local file
    for file in /etc/llmsvc/models.d/*.env; do
        [ ! -e "$file" ] || { file=${file##*/} && echo "${file%%.env}"; }
    done
}

# _llmsvc_know COMMAND: what may follow it, into commands, options, valued (options with a value) and words
_llmsvc_know() {
    commands='' options='' valued='' words=''
    case $1 in
%(commands)s    *) return 1 ;;
    esac
}

# _llmsvc_value KIND: completes a word of that kind; a kind with | in it is the list of what the word may be
_llmsvc_value() {
    case $1 in
    file) compopt -o filenames && mapfile -t COMPREPLY < <(compgen -f -- "$cur") ;;
    dir) compopt -o filenames && mapfile -t COMPREPLY < <(compgen -d -- "$cur") ;;
    model) mapfile -t COMPREPLY < <(compgen -W "$(_llmsvc_models)" -- "$cur") ;;
    source)
        compopt -o filenames
        mapfile -t COMPREPLY < <(
            compgen -W %(catalogue)s -- "$cur"
            compgen -f -X '!*.gguf' -- "$cur"
            compgen -d -- "$cur"
        )
        ;;
    *'|'*) mapfile -t COMPREPLY < <(compgen -W "${1//|/ }" -- "$cur") ;;
    esac
}

_llmsvc() {
    local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD - 1]} at='' word kind place=0 i
    local commands options valued words
    COMPREPLY=()
    _llmsvc_know ''
    for ((i = 1; i < COMP_CWORD; i++)); do
        word=${COMP_WORDS[i]}
        case $word in
        -*) [[ " $valued " != *" $word="* ]] || i=$((i + 1)) ;;
        *)
            if [[ " $commands " == *" $word "* ]]; then
                at="$at${at:+ }$word"
                _llmsvc_know "$at" || return 0
            else
                place=$((place + 1))
            fi
            ;;
        esac
    done
    if [[ $prev == -* && " $valued " == *" $prev="* && $i -gt $COMP_CWORD ]]; then
        kind=${valued##*"$prev="}
        _llmsvc_value "${kind%%%% *}"
    elif [[ $cur == -* ]]; then
        mapfile -t COMPREPLY < <(compgen -W "$options" -- "$cur")
    elif [ -n "$commands" ]; then
        mapfile -t COMPREPLY < <(compgen -W "$commands" -- "$cur")
    else
        # shellcheck disable=SC2086  # a list
        set -- $words
        shift $((place < $# ? place : $#))
        _llmsvc_value "${1:-}"
    fi
}
complete -F _llmsvc llmsvc
"""


def script(root: Command) -> str:
    """The file for bash-completion's directory."""
    known = "".join(_case(command) for command in root.walk())
    names = shlex.quote(" ".join(catalogue.load()))
    return _SCRIPT % {"commands": known, "catalogue": names}


def _case(command: Command) -> str:
    names = " ".join(below.path[-1] for below in command.commands if not below.internal)
    flags = " ".join(flag for option in command.options for flag in option.flags)
    valued = " ".join(
        f"{flag}={_kind(option.takes)}" for option in command.options if option.takes for flag in option.flags
    )
    words = " ".join(_kind(word) for word in command.words)
    values = {"commands": names, "options": flags, "valued": valued, "words": words}
    sets = " ".join(f"{key}={shlex.quote(value)}" for key, value in values.items() if value)
    return f"    {shlex.quote(' '.join(command.path))}) {sets} ;;\n"


def _kind(word: Word) -> str:
    if word.choices:
        return "|".join((*word.choices, "")) if len(word.choices) == 1 else "|".join(word.choices)
    return word.kind if word.kind in (FILE, DIR, MODEL, SOURCE) else "any"
