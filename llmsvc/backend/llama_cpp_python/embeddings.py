"""The vectors of some texts: takes the place of Llama.create_embedding.

That one gathers the vectors of all tokens of all inputs as Python lists, for a model without pooling, before
anything is made of them, and counts nothing until its end.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from llmsvc.backend.jobs import Job
from llmsvc.backend.vectors import answer as vectors_answer
from llmsvc.backend.vectors import unit


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
    vectors: list[list[float]] = []
    for texts in inputs.batches:
        found, count = embed(texts, return_count=True)
        job.prompt_tokens += count
        vectors += map(_of_length_1, found)
    job.answer = vectors_answer(vectors, model, as_base64=inputs.base64)


def _of_length_1(found: list[Any]) -> list[float]:
    """One vector; of a model without pooling the mean over its tokens."""
    if isinstance(found[0], list):
        found = [sum(column) / len(column) for column in zip(*found, strict=True)]
    return unit(found)
