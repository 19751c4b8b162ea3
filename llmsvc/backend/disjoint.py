"""Whether no value can fit two of some JSON schemas: then `oneOf` means no more than `anyOf`."""

from __future__ import annotations

from typing import Any

MAX_VALUES = 500


def disjoint(choices: list[Any], root: object) -> bool:
    """Whether it is plain that no value fits two of them.

    :param root: the schema whose definitions they may refer to
    """
    found = sorted((_resolved(choice, root) for choice in choices), key=lambda one: _values(one) is None)
    lists = [values for one in found if (values := _values(one)) is not None]
    if len(set[object]().union(*lists)) < sum(map(len, lists)):
        return False
    return all(
        _differ(one, other, root)
        for at, one in enumerate(found)
        for other in found[at + 1 if _values(one) is None else len(lists) :]
    )


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
        return values.isdisjoint(others)
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


def _values(schema: dict[str, Any]) -> set[object] | None:
    """The values that it lists, if these are few and plain."""
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if not isinstance(values, list) or len(values) > MAX_VALUES:
        return None
    return None if any(isinstance(value, (dict, list)) for value in values) else set(values)


def _names(schema: dict[str, Any]) -> set[str]:
    found = schema.get("required")
    return {name for name in found if isinstance(name, str)} if isinstance(found, list) else set()
