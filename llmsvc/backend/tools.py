"""Function calls.

llama_cpp.server can force one function by a grammar; it cannot tell whether an answer is a call, so anything
else is refused rather than let call syntax leak into the text.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

from llmsvc.backend.problem import bad
from llmsvc.backend.schemas import safe

MAX_TOOLS = 128
_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}\Z")


@dataclasses.dataclass(frozen=True)
class Forced:
    """The function that the model must call, and the schema of its arguments."""

    name: str
    schema: dict[str, Any]


def normalise(body: dict[str, Any], out: dict[str, Any]) -> Forced | None:
    """Writes tools and tool_choice into `out`.

    :returns: the function that is forced; None where no tools are wanted
    :raises ApiError: 400, `tools_not_supported` where the model would have to choose by itself
    """
    if body.get("functions"):
        raise bad("functions are not supported; use tools", "functions", "tools_not_supported")
    given = body.get("tools", [])
    if not isinstance(given, list) or len(given) > MAX_TOOLS:
        raise bad(f"tools must be a list of at most {MAX_TOOLS}", "tools")
    choice = body.get("tool_choice", "auto")
    if not given or choice == "none":
        return None
    tools = [_tool(tool, f"tools[{index}]") for index, tool in enumerate(given)]
    name = _chosen(choice, tools)
    index = next((i for i, tool in enumerate(tools) if tool["function"]["name"] == name), None)
    if index is None:
        raise bad("tool_choice names a function that is not in tools", "tool_choice")
    function = tools[index]["function"]
    function["parameters"] = safe(function["parameters"], f"tools[{index}].function.parameters")
    out["tools"] = tools
    out["tool_choice"] = {"type": "function", "function": {"name": name}}
    return Forced(name, function["parameters"])


def _chosen(choice: object, tools: list[dict[str, Any]]) -> str:
    if isinstance(choice, dict):
        function = choice.get("function")
        name = function.get("name") if isinstance(function, dict) else None
        if choice.get("type") != "function" or not isinstance(name, str):
            raise bad("tool_choice must name a function", "tool_choice")
        return name
    if choice == "required" and len(tools) == 1:
        return str(tools[0]["function"]["name"])
    if choice in ("auto", "required"):
        raise bad(
            "this model cannot choose a tool by itself; name the function in tool_choice",
            "tool_choice",
            "tools_not_supported",
        )
    raise bad("tool_choice must be none, auto, required or a function", "tool_choice")


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
    out = {"name": name, "parameters": parameters}
    if isinstance(function.get("description"), str):
        out["description"] = function["description"]
    return {"type": "function", "function": out}


def tidy_answer(answer: dict[str, Any]) -> None:
    """Removes from a chat answer what llama_cpp adds to a call and OpenAI has given up."""
    for choice in answer.get("choices", []):
        choice.get("message", {}).pop("function_call", None)


def tidy_chunk(chunk: dict[str, Any], first: bool) -> None:
    """The same for a stream's chunk. SDKs join what chunks repeat: id, type and name stay in the first only.

    :param first: whether no earlier chunk had a call
    """
    for choice in chunk.get("choices", []):
        delta = choice.get("delta", {})
        delta.pop("function_call", None)
        for key in [key for key, value in delta.items() if value is None]:
            del delta[key]
        if not first:
            for call in delta.get("tool_calls", []):
                call.pop("id", None)
                call.pop("type", None)
                call["function"].pop("name", None)
