"""Whether no value can fit two of some JSON schemas: then `oneOf` means no more than `anyOf`."""

from __future__ import annotations

from typing import Any


def disjoint(choices: list[Any], root: object) -> bool:
    """Whether it is plain that no value fits two of them.

    :param root: the schema whose definitions they may refer to
    """
    found = [_resolved(choice, root) for choice in choices]
    return all(_differ(one, other, root) for at, one in enumerate(found) for other in found[at + 1 :])


def _resolved(schema: object, root: object) -> dict[str, Any]:
    """What a reference refers to; any other schema as it is."""
    if not isinstance(schema, dict):
        return {}
    target: object = schema
    if isinstance(schema.get("$ref"), str):
        target = root
        for step in schema["$ref"].removeprefix("#/").split("/"):
            target = target.get(step) if isinstance(target, dict) else None
    return target if isinstance(target, dict) else {}


def _differ(one: dict[str, Any], other: dict[str, Any], root: object) -> bool:
    values, others = _values(one), _values(other)
    if values is not None and others is not None:
        return not any(value == item for value in values for item in others)
    kinds, theirs = one.get("type"), other.get("type")
    if isinstance(kinds, str) and isinstance(theirs, str) and kinds != theirs:
        return {kinds, theirs} != {"integer", "number"}
    # a property that both must have, and that tells them apart
    mine, its = one.get("properties"), other.get("properties")
    if not isinstance(mine, dict) or not isinstance(its, dict):
        return False
    shared = _names(one) & _names(other) & mine.keys() & its.keys()
    return any(
        _differ(_resolved(mine[name], root), _resolved(its[name], root), root)
        for name in shared
        # only plain words tell apart, which also ends what refers to itself
        if _values(_resolved(mine[name], root)) is not None
    )


def _values(schema: dict[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return schema["enum"] if isinstance(schema.get("enum"), list) else None


def _names(schema: dict[str, Any]) -> set[str]:
    found = schema.get("required")
    return {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()
