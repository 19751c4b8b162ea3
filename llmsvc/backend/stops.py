"""Stop texts in an answer that comes in pieces, over several of which one may be spread."""

from __future__ import annotations

from collections.abc import Iterable


def held(text: str, marks: Iterable[str]) -> int:
    """How many characters at the end of `text` may be the beginning of one of the marks."""
    most = 0
    for mark in marks:
        for length in range(min(len(mark) - 1, len(text)), most, -1):
            if text.endswith(mark[:length]):
                most = length
                break
    return most


class Stops:
    """Ends one answer.

    :param stops: texts that end the answer and are no part of it
    """

    def __init__(self, stops: list[str]) -> None:
        self.hit: str | None = None
        """The one that was there."""
        self._stops = stops
        self._rest = ""

    def feed(self, text: str) -> str:
        """What can be sent now; after a hit, the last of the answer."""
        if not self._stops:
            return text
        text = self._rest + text
        found = [(place, stop) for stop in self._stops if (place := text.find(stop)) >= 0]
        if found:
            # of those that begin together the longest
            place, self.hit = min(found, key=lambda one: (one[0], -len(one[1])))
            self._rest = ""
            return text[:place]
        end = len(text) - held(text, self._stops)
        self._rest = text[end:]
        return text[:end]

    def end(self) -> str:
        """What was held back, at the end of an answer that no stop text ended."""
        rest, self._rest = self._rest, ""
        return rest
