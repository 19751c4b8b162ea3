"""A plan for people and for programs, before anything of it is done."""

from __future__ import annotations

from collections.abc import Sequence

from installer.actions import Action

_INDENT = "    "


def data(due: Sequence[Action]) -> list[dict[str, str]]:
    """The steps in the order of execution; `details` is a unified diff or SQL."""
    return [{"kind": action.kind, "title": action.title, "details": action.details()} for action in due]


def text(due: Sequence[Action]) -> str:
    """The same, numbered."""
    blocks = []
    for number, action in enumerate(due, 1):
        lines = action.details().rstrip("\n").splitlines()
        blocks.append("\n".join([f"{number:2}. {action.title}", *(_INDENT + line for line in lines)]))
    return "\n".join(blocks)
