"""Finds function calls in what a model writes, in the syntaxes that chat templates teach.

    Hermes, Qwen    <tool_call>{"name": "f", "arguments": {}}</tool_call>
    Llama 3         {"name": "f", "parameters": {}}, also after <|python_tag|>
    Mistral         [TOOL_CALLS][{"name": "f", "arguments": {}}], newer ones [TOOL_CALLS]f[ARGS]{}

What is call syntax never becomes content: a call that is cut off or broken is left out.
"""

from __future__ import annotations

import ast
import dataclasses
import json
import re
from collections.abc import Set
from typing import Literal

from llmsvc.backend.replies import Call

_FOREIGN = ("<function=", "<arg_key>", "<invoke")
"""What templates of other syntaxes have, some beside tags of ours."""
_DECODER = json.JSONDecoder()
End = Literal["whole", "cut"] | None
"""How an answer ended: as the model wanted, or in the middle; None while it goes on."""


@dataclasses.dataclass(frozen=True)
class Taken:
    """What a piece of call syntax came to, and the text behind it."""

    calls: list[Call]
    rest: str
    text: str = ""
    """What turned out to be an ordinary answer."""


class Syntax:
    """How one family of models writes calls."""

    tags: tuple[str, ...]
    """What begins a call, or is a remainder of one; single tokens in most vocabularies."""
    before, between, after = "", "", ""
    """What stands around the JSON of one call, where a grammar enforces it."""
    arguments = "arguments"

    def opens(self, text: str, start: int | None) -> int | None:
        """The place where the text turns into a call; None where it does not.

        :param start: where the text begins after blanks, if nothing else came before them
        """
        places = [place for place in (text.find(tag) for tag in self.tags) if place >= 0]
        return min(places, default=None)

    def take(self, text: str, names: Set[str], *, end: End) -> Taken | None:
        """Reads the call that the text begins with; None where more of it is to come.

        :param end: how the answer ended, if it did
        """
        raise NotImplementedError


class Hermes(Syntax):
    """<tool_call> and JSON; also of a model that forgets the end tag."""

    tags = ("<tool_call>", "</tool_call>")
    before, between, after = "<tool_call>\n", "\n</tool_call>\n<tool_call>\n", "\n</tool_call>"

    def take(self, text: str, names: Set[str], *, end: End) -> Taken | None:
        opening, closing = self.tags
        if text.startswith(closing):
            return Taken([], text[len(closing) :])
        body = text[len(opening) :]
        value, rest, unfinished = _json(body)
        if value is not None:
            return Taken(_calls(value), rest)
        if closing in body and not unfinished:
            return Taken([], body.partition(closing)[2])
        return Taken([], "") if end else None


class Mistral(Syntax):
    """[TOOL_CALLS] and a list, or a name, [ARGS] and the arguments."""

    tags = ("[TOOL_CALLS]",)
    before, between, after = "[TOOL_CALLS][", ", ", "]"
    _NAMED = re.compile(r"([A-Za-z0-9_.-]{1,64})(?:\[CALL_ID\]\w*)?(?:\[ARGS\])?(?=\{)")

    def take(self, text: str, names: Set[str], *, end: End) -> Taken | None:
        body = text[len(self.tags[0]) :].lstrip()
        named = self._NAMED.match(body)
        value, rest, _ = _json(body[named.end() :] if named else body)
        if value is None:
            return Taken([], "") if end else None
        return Taken([Call(named[1], _dumped(value))] if named else _calls(value), rest)


class Llama(Syntax):
    """A JSON object as the whole answer, or anything after <|python_tag|>."""

    tags = ("<|python_tag|>",)
    arguments = "parameters"
    _KEYS = ("name", "parameters", "arguments", "type", "function", "id")
    _FIRST_KEY = re.compile(r'\{\s*"([^"\\]*)"')
    _OPEN = re.compile(r'\{\s*("[^"\\]*)?\Z')
    _NAME = re.compile(r'"name"\s*:\s*"([^"\\]*)"')
    _BUILT_IN = re.compile(r"\s*([A-Za-z0-9_-]+)\.call\((.*)\)\s*\Z", re.S)

    def opens(self, text: str, start: int | None) -> int | None:
        if start is not None and text[start : start + 1] == "{":
            return start
        return super().opens(text, start)

    def take(self, text: str, names: Set[str], *, end: End) -> Taken | None:
        tagged = text.startswith(self.tags[0])
        body = text[len(self.tags[0]) :].lstrip() if tagged else text
        if body.startswith("{") or not tagged:
            return self._json_call(body, names, tagged=tagged, end=end)
        if end is None:
            return None
        if end == "cut":
            return Taken([], "")
        match = self._BUILT_IN.match(body)
        if match and match[1] in names and (arguments := _keywords(match[2])) is not None:
            return Taken([Call(match[1], _dumped(arguments))], "")
        code = next((name for name in ("code_interpreter", "python", "ipython") if name in names), None)
        return Taken([Call(code, _dumped({"code": body}))] if code and body else [], "")

    def _json_call(self, body: str, names: Set[str], *, tagged: bool, end: End) -> Taken | None:
        value, rest, _ = _json(body)
        if value is not None:
            calls = _calls(value)
            if tagged or (calls and all(call.name in names for call in calls)):
                return Taken(calls, rest)
            return self._answer(body, rest)
        first = self._FIRST_KEY.match(body)
        if not tagged and not (first[1] in self._KEYS if first else self._OPEN.match(body)):
            return self._answer(body)
        if end is None:
            return None
        name = self._NAME.search(body)
        foreign = not tagged and name is not None and name[1] not in names
        return self._answer(body) if foreign else Taken([], "")

    def _answer(self, body: str, rest: str = "") -> Taken:
        """An ordinary answer, as far as the next tag."""
        text, tag, behind = body.removesuffix(rest).partition(self.tags[0])
        return Taken([], tag + behind + rest, text)


class Only(Syntax):
    """Nothing but the arguments of one function: what a grammar makes of a model that knows no calls."""

    tags = ()

    def __init__(self, name: str) -> None:
        self.name = name

    def opens(self, text: str, start: int | None) -> int | None:
        return 0

    def take(self, text: str, names: Set[str], *, end: End) -> Taken | None:
        value, _, _ = _json(text)
        if value is None:
            return Taken([], "") if end else None
        return Taken([Call(self.name, text.strip())], "") if end else None


def syntax_of(template: str) -> Syntax | None:
    """The syntax that a chat template teaches; None where it is none of ours."""
    if any(mark in template for mark in _FOREIGN):
        return None
    if "[TOOL_CALLS]" in template:
        return Mistral()
    if "<tool_call>" in template:
        return Hermes()
    if "<|python_tag|>" in template or ("<|start_header_id|>" in template and '"parameters"' in template):
        return Llama()
    return None


def _json(text: str) -> tuple[object | None, str, bool]:
    """The JSON object or list that the text begins with, None if there is none yet; the text behind it;
    whether more text can still make it one."""
    start = text.strip()
    if not start.startswith(("{", "[")):
        return None, "", not start
    try:
        value, end = _DECODER.raw_decode(start)
    except json.JSONDecodeError as error:
        rest = start[error.pos :]
        in_word = not rest or any(word.startswith(rest) for word in ("true", "false", "null", "-"))
        in_string = "Unterminated" in error.msg or ("escape" in error.msg and len(rest) < 6)
        return None, "", in_word or in_string
    except RecursionError:
        return None, "", False
    return value, text.lstrip()[end:], False


def _calls(value: object) -> list[Call]:
    """The calls that a JSON value describes."""
    found = []
    for item in value if isinstance(value, list) else [value]:
        inner = item.get("function") if isinstance(item, dict) else None
        call = inner if isinstance(inner, dict) else item
        if isinstance(call, dict) and isinstance(call.get("name"), str):
            arguments = call.get("arguments", call.get("parameters", {}))
            found.append(Call(_dumped(call["name"]), _dumped(arguments)))
    return found


def _dumped(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    # half a character in an escape is no text that can be sent
    return text.encode("utf-8", "replace").decode()


def _keywords(text: str) -> dict[str, object] | None:
    """The keyword arguments of a Python call, if they are literals."""
    try:
        call = ast.parse(f"f({text})", mode="eval").body
        assert isinstance(call, ast.Call) and not call.args
        return {str(item.arg): ast.literal_eval(item.value) for item in call.keywords}
    except (ValueError, SyntaxError, AssertionError, RecursionError, MemoryError):
        return None
