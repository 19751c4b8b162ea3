"""The vectors of some texts: takes the place of Llama.create_embedding.

That one gathers the vectors of all tokens of all inputs as Python lists, for a model without pooling, before
anything is made of them, and counts nothing until its end.
"""

from __future__ import annotations

import array
import base64
import dataclasses
import math
import sys
from collections.abc import Callable
from typing import Any

from llmsvc.backend.jobs import Job


@dataclasses.dataclass(frozen=True)
class Inputs:
    """What vectors are made of."""

    batches: list[list[str]]
    """The texts, parted into what the model can read at once."""
    base64: bool
    """Whether a vector is sent as base64 of 32-bit floats, else as a list of numbers."""
    prompt_tokens: int
    """What the model will read."""
    answers: bool = False


def run(inputs: Inputs, job: Job, model: str, embed: Callable[..., Any]) -> None:
    """Leaves the answer in `job.answer`; its usage is still to be added.

    :param model: the name that the answer bears
    :param embed: `Llama.embed`
    """
    shown: list[str | list[float]] = []
    for texts in inputs.batches:
        found, count = embed(texts, return_count=True)
        job.prompt_tokens += count
        vectors = map(_unit, found)
        shown += map(_packed, vectors) if inputs.base64 else vectors
    data = [{"object": "embedding", "index": at, "embedding": one} for at, one in enumerate(shown)]
    job.answer = {"object": "list", "data": data, "model": model}


def _unit(found: list[Any]) -> list[float]:
    """One vector of length 1, as OpenAI's are; of a model without pooling the mean over its tokens."""
    if isinstance(found[0], list):
        found = [sum(column) / len(column) for column in zip(*found, strict=True)]
    length = math.hypot(*found) or 1.0
    return [value / length for value in found]


def _packed(values: list[float]) -> str:
    floats = array.array("f", values)
    if sys.byteorder == "big":
        floats.byteswap()
    return base64.b64encode(floats.tobytes()).decode()
