"""The JSON schemas that llama.cpp can be trusted with.

Its converter turns a schema into a grammar without bounds, and a grammar that does not parse ends the
process. What is let through is a subset that it turns into the right grammar; the rest is a 400.
"""

from __future__ import annotations

import re
import secrets
from typing import Any

from llmsvc.backend.disjoint import MAX_VALUES, disjoint
from llmsvc.backend.problem import ApiError, bad

MAX_DEPTH = 16
MAX_NODES = 400
MAX_REPEATS = 512
MAX_REPEATS_TOTAL = 4096
MAX_CHOICES = MAX_VALUES
MAX_CHOICES_TOTAL = 1000
MAX_NUMBER = 10**100
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
_ALONE = {"$ref", "anyOf", "const", "enum", "oneOf"}
_OF_OBJECTS = {"additionalProperties", "properties", "required"}
_ANY = "value"
"""The converter's name for any JSON value."""


def safe(schema: object, param: str) -> dict[str, Any]:
    """The schema without what is only a note, checked against the subset.

    :param param: where it stands in the request, for the error
    :raises ApiError: 400 `unsupported_schema`
    """
    walker = _Walker(param)
    clean = walker.schema(schema, 0)
    if any(alias not in clean.get(table, {}) for (table, _), alias in walker.aliases.items()):
        raise walker.refuse("refers to a part that is not there")
    try:
        ways = _ways(clean, clean, {})
    except RecursionError:
        raise walker.refuse("refers to parts that refer to parts, too deeply") from None
    if ways > MAX_WAYS:
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
    if "enum" in node:
        return len(node["enum"])
    parts = [*node.get("properties", {}).values(), *(node[key] for key in _INNER if key in node)]
    return min(MAX_WAYS + 1, max(1, sum(_ways(part, root, known) for part in parts)))


class _Walker:
    def __init__(self, param: str) -> None:
        self.aliases: dict[tuple[str, str], str] = {}
        """Our names for the definitions, by table and name."""
        self._param = param
        self._root: object = None
        self._nodes = 0
        self._repeats = 0
        self._values = 0

    def refuse(self, why: str) -> ApiError:
        return bad(f"this JSON schema {why}", self._param, "unsupported_schema")

    def schema(self, node: object, depth: int) -> dict[str, Any]:
        if not isinstance(node, dict):
            raise self.refuse("must consist of objects")
        if not depth:
            self._root = node
        self._nodes += 1
        if depth > MAX_DEPTH or self._nodes > MAX_NODES:
            raise self.refuse(f"is larger than {MAX_NODES} parts or deeper than {MAX_DEPTH}")
        parts = node.get("allOf")
        if isinstance(parts, list) and len(parts) == 1 and isinstance(parts[0], dict):
            # what generators write for a reference with a description
            if node.keys() & parts[0].keys() - _NOTES:
                raise self.refuse("says the same twice, within and beside allOf")
            node = {key: value for key, value in node.items() if key != "allOf"} | parts[0]
        kinds = node.get("type")
        if isinstance(kinds, list) and len(kinds) > 1 and not node.keys() & {"enum", "const"}:
            # the converter would forget all else about the types of a list
            rest = {key: value for key, value in node.items() if key not in ("$defs", "definitions")}
            alternatives = {"anyOf": [{**rest, "type": kind} for kind in kinds]}
            node = {key: value for key, value in node.items() if key not in rest} | alternatives
        elif node.keys() & {"enum", "const"}:
            self._check_types(node, kinds)
            node = {key: value for key, value in node.items() if key != "type"}
        unknown = sorted(str(key)[:40] for key in node if key not in _KEPT and key not in _NOTES)
        if unknown:
            raise self.refuse(f"uses {unknown[0]!r}, which this server cannot keep to")
        self._check_alone(node)
        clean = {key: getattr(self, _METHODS[key])(node[key], depth) for key in node if key in _METHODS}
        if clean.get("type") == "string" and node.get("format") in tuple(_FORMATS):
            if clean.keys() & {"minLength", "maxLength"}:
                raise self.refuse("gives a text both a format and a length")
            clean["format"] = node["format"]
        if clean.get("minItems", 0) > clean.get("maxItems", MAX_REPEATS):
            raise self.refuse("has minItems above maxItems")
        if clean.get("minLength", 0) > clean.get("maxLength", MAX_REPEATS):
            raise self.refuse("has minLength above maxLength")
        if not clean.keys() & {"type", "properties", "items", "anyOf", "oneOf", "enum", "const", "$ref"}:
            clean["type"] = _ANY if depth and not clean.keys() & _OF_OBJECTS else "object"
        self._complete(clean)
        return clean

    def _check_types(self, node: dict[str, Any], kinds: object) -> None:
        """A value of another type than the one that is asked for fits nothing."""
        if kinds is None:
            return
        self.kind(kinds, 0)
        allowed = set(kinds) if isinstance(kinds, list) else {kinds}
        values = node["enum"] if isinstance(node.get("enum"), list) else [node.get("const")]
        if not all(_kinds(value) & allowed for value in values):
            raise self.refuse("lists a value that is not of its type")

    def _check_alone(self, node: dict[str, Any]) -> None:
        """The converter looks at one of these only, and forgets what stands beside it."""
        said = node.keys() - _NOTES - {"$defs", "definitions", "type"}
        if "type" in node and node.keys() & {"$ref", "anyOf", "oneOf"}:
            said = said | {"type"}
        alone = said & _ALONE
        if alone and len(said) > 1:
            raise self.refuse(f"says more beside {min(alone)!r}, which this server cannot keep to")

    def _complete(self, clean: dict[str, Any]) -> None:
        """Makes what the converter would leave open a part of the schema."""
        if clean.get("type") == "array" and "items" not in clean and clean.keys() & {"minItems", "maxItems"}:
            clean["items"] = {"type": _ANY}
        if clean.get("type", "object") != "object" or not clean.keys() & _OF_OBJECTS:
            return
        extra = clean.get("additionalProperties", True)
        missing = [name for name in clean.get("required", []) if name not in clean.get("properties", {})]
        if missing and extra is False:
            raise self.refuse("requires a property that it forbids")
        if missing:
            if not all(_NAME.match(name) for name in missing):
                raise self.refuse("may name properties with letters, digits, '_', '-', '.' and blanks only")
            made = {name: {"type": _ANY} if extra is True else extra for name in missing}
            clean["properties"] = {**clean.get("properties", {}), **made}
        if clean.get("properties") and clean.get("additionalProperties"):
            # a further property could have the name of one of these
            clean["additionalProperties"] = False

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

    def one_of(self, node: Any, depth: int) -> list[Any]:
        clean = self.choices(node, depth)  # first, for it bounds what is compared
        if not disjoint(node, self._root):
            raise self.refuse("has a oneOf of which a value could fit several; anyOf is meant")
        return clean

    def choices(self, node: object, depth: int) -> list[Any]:
        if not isinstance(node, list) or not 0 < len(node) <= MAX_NODES:
            raise self.refuse("needs a list with something in it for anyOf and oneOf")
        return [self.schema(choice, depth + 1) for choice in node]

    def values(self, node: object, depth: int) -> list[Any]:
        if not isinstance(node, list) or not 0 < len(node) <= MAX_CHOICES:
            raise self.refuse(f"needs 1 to {MAX_CHOICES} values for enum")
        return [self.value(value, depth) for value in node]

    def value(self, node: object, depth: int) -> object:
        self._values += 1
        if self._values > MAX_CHOICES_TOTAL:
            raise self.refuse(f"may list {MAX_CHOICES_TOTAL} values in all")
        if node is None or (isinstance(node, (bool, int, float)) and abs(node) < MAX_NUMBER):
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
    "oneOf": "one_of",
    "properties": "table",
    "required": "names",
    "type": "kind",
}


def _kinds(value: object) -> set[str]:
    """The types of JSON that a plain value is of."""
    if isinstance(value, bool):
        return {"boolean"}
    if isinstance(value, int):
        return {"integer", "number"}
    if isinstance(value, float):
        return {"integer", "number"} if value.is_integer() else {"number"}
    return {"string"} if isinstance(value, str) else {"null"} if value is None else set()
