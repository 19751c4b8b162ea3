"""The log probabilities of tokens, in OpenAI's two shapes."""

from __future__ import annotations

import codecs
import dataclasses
from typing import Any


@dataclasses.dataclass(frozen=True)
class Entry:
    """One token: its bytes and logprob, and those of the likeliest tokens in its place."""

    token: bytes
    logprob: float | None
    top: list[tuple[bytes, float]]


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
