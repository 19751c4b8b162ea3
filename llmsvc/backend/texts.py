"""Text that arrives in tokens: whole characters, as far as no stop text may have begun."""

from __future__ import annotations

import codecs
from collections.abc import Callable

from llmsvc.backend.stops import Stops


class Text:
    """Turns the tokens of one answer into text that can be sent.

    :param piece: the bytes of a token; a character may be spread over several
    :param stops: texts that end the answer and are no part of it
    """

    def __init__(self, piece: Callable[[int], bytes], stops: list[str]) -> None:
        self._piece = piece
        self._stops = Stops(stops)
        self._decode = codecs.getincrementaldecoder("utf-8")("ignore").decode

    @property
    def stopped(self) -> str | None:
        """The stop text that was there."""
        return self._stops.hit

    def feed(self, token: int) -> str:
        """What can be sent now."""
        return self._stops.feed(self._decode(self._piece(token)))

    def end(self) -> str:
        """What was held back, at the end of an answer that no stop text ended."""
        return self._stops.end()
