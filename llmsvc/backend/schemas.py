"""The JSON schemas that llama.cpp can be trusted with.

Its converter turns a schema into a grammar without bounds, and a grammar that does not parse ends the
process. What is let through is a subset that it turns into the right grammar; the rest is a 400.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from llmsvc.backend.problem import ApiError, bad

MAX_DEPTH = 16
MAX_NODES = 400
MAX_REPEATS = 512
MAX_REPEATS_TOTAL = 4096
MAX_CHOICES = 500
MAX_TEXT = 200
MAX_WAYS = 1000
_INNER = ("additionalProperties", "anyOf", "items", "oneOf")

_TYPES = {"object", "array", "string", "number", "integer", "boolean", "null"}
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_ .-]{0,63}\Z")
_REFERENCE = re.compile(r"#/(\$defs|definitions)/[A-Za-z0-9_.-]{1,64}\Z")
_NOTES = {
    "$comment", "$id", "$schema", "default", "deprecated", "description", "example", "examples", "format",
    "readOnly", "title", "writeOnly",
}  # fmt: skip
_KEPT = {
    "$defs", "$ref", "additionalProperties", "anyOf", "const", "definitions", "enum", "items", "maxItems",
    "maxLength", "minItems", "minLength", "oneOf", "properties", "required", "type",
}  # fmt: skip
_FORMATS = {"date", "time", "date-time", "uuid"}


def safe(schema: object, param: str) -> dict[str, Any]:
    """The schema without what is only a note, checked against the subset.

    :param param: where it stands in the request, for the error
    :raises ApiError: 400 `unsupported_schema`
    """
    walker = _Walker(param)
    clean = walker.schema(schema, 0)
    if any(alias not in clean.get(table, {}) for (table, _), alias in walker.aliases.items()):
        raise walker.refuse("refers to a part that is not there")
    if _ways(clean, clean, {}) > MAX_WAYS:
        raise walker.refuse(f"has more than {MAX_WAYS} ways to be kept to, with its references in place")
    return clean


def _ways(node: Any, root: dict[str, Any], known: dict[str, int]) -> int:
    """Alternatives with all references in place: as many states may a grammar be in at once."""
    if isinstance(node, list):
        return sum(_ways(choice, root, known) for choice in node)
    if not isinstance(node, dict):
        return 0
    if "$ref" in node:
        _, table, name = node["$ref"].split("/")
        if name not in known:
            known[name] = 1  # llama_cpp refuses what refers to itself
            known[name] = _ways(root[table][name], root, known)
        return known[name]
    parts = [*node.get("properties", {}).values(), *(node[key] for key in _INNER if key in node)]
    return min(MAX_WAYS + 1, max(1, sum(_ways(part, root, known) for part in parts)))


class _Walker:
    def __init__(self, param: str) -> None:
        self.aliases: dict[tuple[str, str], str] = {}
        """Our names for the definitions, by table and name."""
        self._param = param
        self._nodes = 0
        self._repeats = 0

    def refuse(self, why: str) -> ApiError:
        return bad(f"this JSON schema {why}", self._param, "unsupported_schema")

    def schema(self, node: object, depth: int) -> dict[str, Any]:
        if not isinstance(node, dict):
            raise self.refuse("must consist of objects")
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise self.refuse(f"is larger than {MAX_NODES} parts or deeper than {MAX_DEPTH}")
        parts = node.get("allOf")
        if isinstance(parts, list) and len(parts) == 1 and isinstance(parts[0], dict):
            # what generators write for a reference with a description
            node = {key: value for key, value in node.items() if key != "allOf"} | parts[0]
        kinds = node.get("type")
        if isinstance(kinds, list) and len(kinds) > 1 and not node.keys() & {"enum", "const"}:
            # the converter would forget all else about the types of a list
            rest = {key: value for key, value in node.items() if key not in ("$defs", "definitions")}
            alternatives = {"anyOf": [{**rest, "type": kind} for kind in kinds]}
            node = {key: value for key, value in node.items() if key not in rest} | alternatives
        elif node.keys() & {"enum", "const"}:
            node = {key: value for key, value in node.items() if key != "type"}
        unknown = sorted(str(key)[:40] for key in node if key not in _KEPT and key not in _NOTES)
        if unknown:
            raise self.refuse(f"uses {unknown[0]!r}, which this server cannot keep to")
        clean = {key: getattr(self, _METHODS[key])(node[key], depth) for key in node if key in _METHODS}
        if node.get("format") in _FORMATS and clean.get("type") == "string":
            clean["format"] = node["format"]
        if clean.get("minItems", 0) > clean.get("maxItems", MAX_REPEATS):
            raise self.refuse("has minItems above maxItems")
        if clean.get("minLength", 0) > clean.get("maxLength", MAX_REPEATS):
            raise self.refuse("has minLength above maxLength")
        if not clean.keys() & {"type", "properties", "items", "anyOf", "oneOf", "enum", "const", "$ref"}:
            clean["type"] = "object"
        return clean

    def table(self, node: object, depth: int) -> dict[str, Any]:
        if not isinstance(node, dict) or not all(
            isinstance(name, str) and _NAME.match(name) for name in node
        ):
            raise self.refuse("may name properties with letters, digits, '_', '-', '.' and blanks only")
        return {name: self.schema(value, depth + 1) for name, value in node.items()}

    def definitions(self, node: object, depth: int, table: str = "$defs") -> dict[str, Any]:
        if depth:
            raise self.refuse("must define its parts at its top")
        return {self._alias(table, name): part for name, part in self.table(node, depth).items()}

    def old_definitions(self, node: object, depth: int) -> dict[str, Any]:
        return self.definitions(node, depth, "definitions")

    def reference(self, node: object, depth: int) -> str:
        if not isinstance(node, str) or not _REFERENCE.match(node):
            raise self.refuse("may refer to its own $defs only")
        _, table, name = node.split("/")
        return f"#/{table}/{self._alias(table, name)}"

    def _alias(self, table: str, name: str) -> str:
        # the converter takes the name for that of a rule: it must be a legal one, and no property's path
        return self.aliases.setdefault((table, name), f"part-{secrets.token_hex(8)}")

    def choices(self, node: object, depth: int) -> list[Any]:
        if not isinstance(node, list) or not 0 < len(node) <= MAX_NODES:
            raise self.refuse("needs a list with something in it for anyOf and oneOf")
        return [self.schema(choice, depth + 1) for choice in node]

    def values(self, node: object, depth: int) -> list[Any]:
        if not isinstance(node, list) or not 0 < len(node) <= MAX_CHOICES:
            raise self.refuse(f"needs 1 to {MAX_CHOICES} values for enum")
        return [self.value(value, depth) for value in node]

    def value(self, node: object, depth: int) -> object:
        if node is None or isinstance(node, (bool, int, float)):
            return node
        # the converter writes these into the grammar without the right escapes
        if (
            not isinstance(node, str)
            or len(node) > MAX_TEXT
            or re.search(r'["\\\x00-\x1f\x7f\ud800-\udfff]', node)
        ):
            raise self.refuse("may list only plain words and numbers in enum and const")
        if any(ord(char) > 0xFFFF for char in node):
            raise self.refuse("may not list characters beyond U+FFFF")
        return node

    def names(self, node: object, depth: int) -> list[str]:
        if not isinstance(node, list) or not all(isinstance(name, str) for name in node):
            raise self.refuse("needs a list of names for required")
        return list(node)

    def kind(self, node: object, depth: int) -> object:
        kinds = node if isinstance(node, list) else [node]
        if not kinds or not all(isinstance(kind, str) and kind in _TYPES for kind in kinds):
            raise self.refuse("has a type that is none of JSON's")
        return node

    def extra(self, node: object, depth: int) -> object:
        return node if isinstance(node, bool) else self.schema(node, depth + 1)

    def child(self, node: object, depth: int) -> dict[str, Any]:
        return self.schema(node, depth + 1)

    def repeats(self, node: object, depth: int) -> int:
        if type(node) is not int or not 0 <= node <= MAX_REPEATS:
            raise self.refuse(f"may count lengths and items from 0 to {MAX_REPEATS} only")
        self._repeats += node
        if self._repeats > MAX_REPEATS_TOTAL:
            raise self.refuse(f"may count {MAX_REPEATS_TOTAL} lengths and items in all")
        return node


_METHODS = {
    "$defs": "definitions",
    "$ref": "reference",
    "additionalProperties": "extra",
    "anyOf": "choices",
    "const": "value",
    "definitions": "old_definitions",
    "enum": "values",
    "items": "child",
    "maxItems": "repeats",
    "maxLength": "repeats",
    "minItems": "repeats",
    "minLength": "repeats",
    "oneOf": "choices",
    "properties": "table",
    "required": "names",
    "type": "kind",
}
