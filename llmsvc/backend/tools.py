"""The functions that a chat may call: what of `tools` and `tool_choice` the model is told and held to."""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from llmsvc.backend.capabilities import lacking
from llmsvc.backend.problem import bad
from llmsvc.backend.schemas import safe

MAX_TOOLS = 128
_OTHER_THAN_OBJECTS = {"$ref", "allOf", "anyOf", "const", "enum", "items", "oneOf"}
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclasses.dataclass(frozen=True)
class Tools:
    """The functions of one request."""

    shown: list[dict[str, Any]]
    """What the chat template is given."""
    names: frozenset[str]
    forced: dict[str, dict[str, Any]]
    """The functions of which the answer must call one, with the schema of their arguments; mostly empty."""
    most: int
    """How many calls the answer may have."""


def normalise(body: dict[str, Any], model: str, *, can_choose: bool) -> Tools | None:
    """Checks tools and tool_choice.

    :param model: its name
    :param can_choose: whether the model was taught to call functions
    :returns: None where there are none
    :raises ApiError: 400, `tools_not_supported` where the model would have to choose by itself and cannot
    """
    if body.get("functions"):
        raise bad("functions are not supported; use tools", "functions", "tools_not_supported")
    given = body.get("tools", [])
    if not isinstance(given, list) or len(given) > MAX_TOOLS:
        raise bad(f"tools must be a list of at most {MAX_TOOLS}", "tools")
    parallel = body.get("parallel_tool_calls", True)
    if not isinstance(parallel, bool):
        raise bad("parallel_tool_calls must be true or false", "parallel_tool_calls")
    choice = body.get("tool_choice", "auto")
    name = _named(choice)
    if name is None and choice not in ("none", "auto", "required"):
        raise bad("tool_choice must be none, auto, required or a function", "tool_choice")
    if not given:
        if choice not in ("none", "auto"):
            raise bad("tool_choice needs tools", "tool_choice")
        return None
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(given)]
    names = frozenset(tool["function"]["name"] for tool in tools)
    if len(names) < len(tools):
        raise bad("two tools have the same name", "tools")
    if choice == "none":
        return Tools([], names, {}, 0)
    if name is not None and name not in names:
        raise bad("tool_choice names a function that is not in tools", "tool_choice")
    wanted = [name] if name else list(names) if choice == "required" else []
    if not can_choose and len(wanted) != 1:
        raise lacking(model, "tools", "tool_choice")
    forced = {
        tool["function"]["name"]: safe(tool["function"]["parameters"], f"tools[{index}].function.parameters")
        for index, tool in enumerate(tools)
        if tool["function"]["name"] in wanted
    }
    return Tools(tools, names, forced, 1 if name or not parallel else MAX_TOOLS)


def _named(choice: object) -> str | None:
    """The function that tool_choice names; None where it is a word."""
    if not isinstance(choice, dict):
        return None
    function = choice.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    if choice.get("type") != "function" or not isinstance(name, str):
        raise bad("tool_choice must name a function", "tool_choice")
    return name


def _tool(tool: object, place: str) -> dict[str, Any]:
    function = tool.get("function") if isinstance(tool, dict) and tool.get("type") == "function" else None
    if not isinstance(function, dict):
        raise bad("a tool must be of type function", place, "tools_not_supported")
    name = function.get("name")
    if not isinstance(name, str) or not _NAME.match(name):
        raise bad("a function's name must be 1 to 64 letters, digits, '_' or '-'", f"{place}.function.name")
    parameters = function.get("parameters")
    if parameters is None:
        parameters = {"type": "object", "properties": {}}
    if not isinstance(parameters, dict):
        raise bad("parameters must be a JSON schema", f"{place}.function.parameters")
    if not parameters.keys() & _OTHER_THAN_OBJECTS:
        parameters = {"type": "object", **parameters}
    if parameters.get("type") != "object":
        raise bad("parameters must be a JSON schema of type object", f"{place}.function.parameters")
    description = function.get("description")
    out = {
        "name": name,
        # templates that put it into a sentence fail where there is none
        "description": description if isinstance(description, str) else "",
        "parameters": parameters,
    }
    return {"type": "function", "function": out}
