"""Single values of a request: of the right type and within bounds, or a 400 that names them."""

from __future__ import annotations

import math
from typing import Any

from llmsvc.backend.problem import bad


def number(value: Any, key: str, kind: type, low: float, high: float) -> Any:
    """A value that must be a number of a kind, `int` or `float`, within bounds."""
    numeric = type(value) is int or (kind is float and type(value) is float and math.isfinite(value))
    if not numeric or not low <= value <= high:
        word = "a whole number" if kind is int else "a number"
        shown = "" if kind is int else "g"
        raise bad(f"{key} must be {word} from {low:{shown}} to {high:{shown}}", key)
    return value


def integer(body: dict[str, Any], key: str, low: int, high: int) -> int | None:
    """The whole number at a key; None where it is absent."""
    return None if key not in body else int(number(body[key], key, int, low, high))


def boolean(body: dict[str, Any], key: str) -> bool:
    """The true or false at a key; false where it is absent."""
    value = body.get(key, False)
    if not isinstance(value, bool):
        raise bad(f"{key} must be true or false", key)
    return value


def texts(body: dict[str, Any], key: str, most: int) -> list[str]:
    """The list of texts at a key; empty where it is absent."""
    value = body.get(key, [])
    if not isinstance(value, list) or len(value) > most or not all(isinstance(item, str) for item in value):
        raise bad(f"{key} must be a list of texts", key)
    return value
