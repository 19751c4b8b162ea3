"""The log probabilities of tokens, computed from what llama.cpp gives out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from llmsvc.backend.llama_cpp_python import internals
from llmsvc.backend.logprobs import Entry


def entry(logits: Any, token: int, count: int, piece: Callable[[int], bytes]) -> Entry:
    """The entry of a token.

    :param logits: the model's output from which the token was drawn, a numpy array over the vocabulary
    :param count: how many of the likeliest tokens to list
    """
    numpy = internals.module("numpy")
    greatest = float(logits.max())
    total = greatest + float(numpy.log(numpy.exp(logits - greatest, dtype=numpy.float64).sum()))
    best = numpy.argpartition(logits, -count)[-count:] if count else []
    ranked = sorted(((float(logits[i]) - total, int(i)) for i in best), reverse=True)
    return Entry(piece(token), float(logits[token]) - total, [(piece(i), value) for value, i in ranked])
