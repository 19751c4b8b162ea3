"""The functions of a Responses request: those of a namespace, as Codex has them, have longer names in a chat.

A call tells its function and its namespace apart again.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from llmsvc.backend.problem import ApiError, bad

_BETWEEN = "__"


def joined(namespace: object, name: object) -> object:
    """The chat's name of a function."""
    return f"{namespace}{_BETWEEN}{name}" if isinstance(namespace, str) and namespace else name


def apart(body: dict[str, Any]) -> dict[str, tuple[str, str]]:
    """Of a checked body: namespace and name of each function that has a namespace, by the chat's name."""
    return {
        str(joined(tool["name"], function["name"])): (tool["name"], function["name"])
        for tool in body.get("tools", [])
        if tool["type"] == "namespace"
        for function in tool["tools"]
    }


def chat(body: dict[str, Any]) -> dict[str, Any]:
    """The chat's tools and tool_choice.

    :raises ApiError: 400 with the place of what is wrong
    """
    given = body.get("tools", [])
    if not isinstance(given, list):
        raise bad("tools must be a list", "tools")
    out: dict[str, Any] = {}
    if given:
        out["tools"] = [
            made for index, tool in enumerate(given) for made in _functions(tool, f"tools[{index}]")
        ]
    choice = body.get("tool_choice")
    if isinstance(choice, dict):
        _choose(out, choice)
    elif choice is not None:
        out["tool_choice"] = choice
    return out


def _functions(tool: object, place: str, namespace: str = "") -> Iterator[dict[str, Any]]:
    if not isinstance(tool, dict):
        raise bad("a tool must be an object", place)
    kind = tool.get("type")
    if kind == "namespace" and not namespace:
        name, inside = tool.get("name"), tool.get("tools")
        if not isinstance(name, str) or not name:
            raise bad("a namespace must have a name", f"{place}.name")
        if not isinstance(inside, list):
            raise bad("a namespace must have a list of tools", f"{place}.tools")
        for index, one in enumerate(inside):
            yield from _functions(one, f"{place}.tools[{index}]", name)
        return
    if kind != "function":
        raise _not_ours(kind, f"{place}.type")
    function = {key: tool[key] for key in ("name", "description", "parameters") if tool.get(key) is not None}
    if namespace:
        if not isinstance(tool.get("name"), str):
            raise bad("a function must have a name", f"{place}.name")
        function["name"] = joined(namespace, tool["name"])
    yield {"type": "function", "function": function}


def _choose(out: dict[str, Any], choice: dict[str, Any]) -> None:
    if choice.get("type") == "allowed_tools":
        _allow(out, choice)
    elif choice.get("type") == "function":
        name = joined(choice.get("namespace"), choice.get("name"))
        out["tool_choice"] = {"type": "function", "function": {"name": name}}
    else:
        raise _not_ours(choice.get("type"), "tool_choice")


def _allow(out: dict[str, Any], choice: dict[str, Any]) -> None:
    """Of the tools, those that tool_choice allows."""
    allowed, mode = choice.get("tools"), choice.get("mode", "auto")
    if mode not in ("auto", "required") or not isinstance(allowed, list):
        raise bad("tool_choice of allowed_tools must have a mode, auto or required, and tools", "tool_choice")
    names = [joined(tool.get("namespace"), tool.get("name")) for tool in allowed if isinstance(tool, dict)]
    out["tools"] = [tool for tool in out.get("tools", []) if tool["function"].get("name") in names]
    out["tool_choice"] = mode


def _not_ours(kind: object, place: str) -> ApiError:
    shown = kind if isinstance(kind, str) and kind.isidentifier() and len(kind) < 40 else "that"
    return bad(
        f"this server has no tool {shown}; tools of type function are called by the client",
        place,
        "tools_not_supported",
    )
