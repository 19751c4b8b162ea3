"""The log probabilities of tokens, computed from what llama.cpp gives out, in OpenAI's two shapes."""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Callable
from typing import Any

from llmsvc.backend import internals


@dataclasses.dataclass(frozen=True)
class Entry:
    """One token: its bytes and logprob, and those of the likeliest tokens in its place."""

    token: bytes
    logprob: float | None
    top: list[tuple[bytes, float]]


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


def chat(entries: list[Entry]) -> dict[str, Any]:
    """The `logprobs` of a choice of a chat."""

    def one(token: bytes, logprob: float | None) -> dict[str, Any]:
        return {"token": token.decode("utf-8", "replace"), "logprob": logprob, "bytes": list(token)}

    content = [
        {**one(item.token, item.logprob), "top_logprobs": [one(*top) for top in item.top]} for item in entries
    ]
    return {"content": content, "refusal": None}


class Places:
    """Where the tokens of one text begin, in characters; one that is spread over tokens counts with the last.

    :param offset: the characters before the first token
    """

    def __init__(self, offset: int) -> None:
        self._offset = offset
        self._decode = codecs.getincrementaldecoder("utf-8")("ignore").decode

    def next(self, token: bytes) -> int:
        """The place of the next token."""
        place = self._offset
        self._offset += len(self._decode(token))
        return place


def completion(entries: list[Entry], places: Places) -> dict[str, Any]:
    """The `logprobs` of a choice of a raw completion, or of the next piece of one."""
    tokens = [item.token.decode("utf-8", "replace") for item in entries]
    top = [
        None
        if item.logprob is None
        else {
            token.decode("utf-8", "replace"): value
            for token, value in [(item.token, item.logprob), *item.top]
        }
        for item in entries
    ]
    return {
        "tokens": tokens,
        "text_offset": [places.next(item.token) for item in entries],
        "token_logprobs": [item.logprob for item in entries],
        "top_logprobs": top,
    }
