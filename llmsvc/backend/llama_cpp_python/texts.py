"""Text that arrives in pieces: whole characters of tokens, and stop texts that are spread over several."""

from __future__ import annotations

import codecs
from collections.abc import Callable, Iterable


def held(text: str, marks: Iterable[str]) -> int:
    """How many characters at the end of `text` may be the beginning of one of the marks."""
    most = 0
    for mark in marks:
        for length in range(min(len(mark) - 1, len(text)), most, -1):
            if text.endswith(mark[:length]):
                most = length
                break
    return most


class Text:
    """Turns the tokens of one answer into text that can be sent.

    :param piece: the bytes of a token; a character may be spread over several
    :param stops: texts that end the answer and are no part of it
    """

    def __init__(self, piece: Callable[[int], bytes], stops: list[str]) -> None:
        self.stopped = False
        """Whether a stop text was there."""
        self._piece = piece
        self._stops = stops
        self._decode = codecs.getincrementaldecoder("utf-8")("ignore").decode
        self._rest = ""

    def feed(self, token: int) -> str:
        """What can be sent now."""
        text = self._decode(self._piece(token))
        if not self._stops:
            return text
        text = self._rest + text
        found = [place for place in (text.find(stop) for stop in self._stops) if place >= 0]
        if found:
            self.stopped = True
            self._rest = ""
            return text[: min(found)]
        end = len(text) - held(text, self._stops)
        self._rest = text[end:]
        return text[:end]

    def end(self) -> str:
        """What was held back, at the end of an answer that no stop text ended."""
        rest, self._rest = self._rest, ""
        return rest
