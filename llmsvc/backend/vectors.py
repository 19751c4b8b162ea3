"""What /v1/embeddings answers."""

from __future__ import annotations

import array
import base64
import math
import sys
from collections.abc import Iterable
from typing import Any


def answer(vectors: Iterable[list[float]], model: str, *, as_base64: bool) -> dict[str, Any]:
    """The answer; its usage is still to be added.

    :param vectors: one for each input
    :param as_base64: whether a vector is sent as base64 of 32-bit floats, else as a list of numbers
    """
    shown = map(_packed, vectors) if as_base64 else vectors
    data = [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(shown)]
    return {"object": "list", "data": data, "model": model}


def unit(vector: list[float]) -> list[float]:
    """The vector with length 1, as OpenAI's are."""
    length = math.hypot(*vector) or 1.0
    return [value / length for value in vector]


def _packed(values: list[float]) -> str:
    floats = array.array("f", values)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()
