"""Parts an answer, as it comes in pieces, into content and function calls."""

from __future__ import annotations

import re
from collections.abc import Set

from llmsvc.backend.calls import End, Syntax
from llmsvc.backend.replies import Call
from llmsvc.backend.stops import held


class Parser:
    """Parts one answer, as it comes, into content and calls.

    :param names: the functions there are
    :param wanted: how many calls are wanted at most: 0 where none may be made
    """

    def __init__(self, syntax: Syntax, names: Set[str], wanted: int) -> None:
        self.calls = 0
        """How many were found."""
        self._syntax = syntax
        self._names = names
        self._wanted = wanted
        self._buffer = ""
        self._blanks = ""
        self._inside = False
        self._first = True

    @property
    def done(self) -> bool:
        """Whether all calls that are wanted were made: the rest of the answer is of no use."""
        return 0 < self._wanted <= self.calls

    def feed(self, text: str) -> list[str | Call]:
        """The content and the calls that are certain now."""
        self._buffer += text
        return self._run(None)

    def end(self, *, cut: bool) -> list[str | Call]:
        """What is left at the end of the answer.

        :param cut: whether it ended in the middle, so that the beginning of a tag is no content
        """
        if cut and not self._inside:
            self._buffer = self._buffer[: len(self._buffer) - held(self._buffer, self._syntax.tags)]
        found = self._run("cut" if cut else "whole")
        if self._blanks and not self.calls:
            found.append(self._blanks)
        return found

    def _run(self, end: End) -> list[str | Call]:
        found: list[str | Call] = []
        while self._buffer and not self.done:
            if not self._inside:
                start = self._blank(self._buffer) if self._first else None
                place = self._syntax.opens(self._buffer, start)
                if place is None:
                    hold = 0 if end else held(self._buffer, self._syntax.tags)
                    found += self._content(self._buffer[: len(self._buffer) - hold])
                    self._buffer = self._buffer[len(self._buffer) - hold :]
                    break
                found += self._content(self._buffer[:place])
                self._buffer = self._buffer[place:]
                self._inside = True
            taken = self._syntax.take(self._buffer, self._names, end=end)
            if taken is None:
                break
            self._inside, self._buffer = False, taken.rest
            found += self._content(taken.text)
            if taken.calls:
                self._blanks = ""
            for call in taken.calls:
                if self.calls < self._wanted:
                    self.calls += 1
                    found.append(call)
        return found

    def _blank(self, text: str) -> int:
        """How much of the beginning is blank; between calls a semicolon is, too."""
        blank = re.match(r"[\s;]*" if self.calls else r"\s*", text)
        return blank.end() if blank else 0

    def _content(self, text: str) -> list[str | Call]:
        # blanks around calls are no content, so they wait for what follows
        text = self._blanks + (text[self._blank(text) :] if self.calls and self._first else text)
        body = text.rstrip()
        self._blanks = text[len(body) :]
        if body:
            self._first = False
        return [body] if body else []
