"""The vocabulary as far as safety needs it: control tokens in chat texts, and how few tokens a text has."""

from __future__ import annotations

import collections
import re
from collections.abc import Callable, Iterable
from typing import Any

MARK = "\ufdd0"
"""Stands inside a control token's spelling that is only text. A noncharacter: no text has it."""
JOINER = "\u2060"
"""The same for an engine that makes the tokens itself, so that the model sees it: a blank of no width."""

MAX_LOOKS = 300_000_000
"""About three seconds of llama.cpp's, in which nothing can interrupt it."""

Tokenize = Callable[[bytes, bool, bool], list[int]]


class Vocabulary:
    """Built from `(spelling, is_control)` of every token.

    :param mark: what cuts a control token's spelling in a text
    """

    def __init__(self, tokens: Iterable[tuple[bytes, bool]], mark: str = MARK) -> None:
        self._mark = mark
        control = set()
        self.longest = 1
        """Bytes of the longest token."""
        for spelling, is_control in tokens:
            self.longest = max(self.longest, len(spelling))
            if is_control and len(spelling) > 1:
                control.add(spelling.decode("utf-8", "replace"))
        self._control = control
        self._lengths = sorted({len(spelling) for spelling in control})
        self._by_start = collections.Counter(spelling[0] for spelling in control)
        starts = "".join(sorted(map(re.escape, self._by_start)))
        self._starts = re.compile(f"[{starts}]") if starts else None

    def fewest_tokens(self, text_bytes: int) -> int:
        """The fewest tokens that a text of that many bytes can become."""
        return text_bytes // self.longest

    def is_costly(self, texts: Iterable[str]) -> bool:
        """Whether making tokens of them takes seconds.

        Each control token is looked for at each place where one could begin, and some models have thousands
        that begin with the same character.
        """
        looks = sum(text.count(start) * tokens for text in texts for start, tokens in self._by_start.items())
        return looks > MAX_LOOKS

    def protect(self, value: Any) -> Any:
        """JSON with a mark in each control token's spelling, in all texts of it."""
        if isinstance(value, str):
            return self._protect(value)
        if isinstance(value, list):
            return [self.protect(item) for item in value]
        if isinstance(value, dict):
            return {self.protect(key): self.protect(item) for key, item in value.items()}
        return value

    def _protect(self, text: str) -> str:
        text = text.replace(MARK, "")
        if self._starts is None:
            return text
        cuts = [
            match.start() + 1
            for match in self._starts.finditer(text)
            if any(text[match.start() : match.start() + length] in self._control for length in self._lengths)
        ]
        parts = [text[a:b] for a, b in zip([0, *cuts], [*cuts, len(text)], strict=True)]
        return self._mark.join(parts)


def tokenizer(original: Tokenize) -> Tokenize:
    """`Llama.tokenize` that takes a text apart at each MARK: no control token can stand across one."""

    def tokenize(text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        first, *rest = text.split(MARK.encode())
        found = original(first, add_bos, special)
        for piece in rest:
            found += original(piece, False, special)
        return found

    return tokenize
