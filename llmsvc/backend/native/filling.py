"""Filling in the middle of a text. The server's own /infill would keep no more of it than a batch holds: with
our small batches (see the package) a few words, without a word about it."""

from __future__ import annotations

import dataclasses
import re

from llmsvc.backend.native.http import Http, RefusedError

_SHOWN = re.compile(r"(.*)PREFIX(.*)SUFFIX(.*)", re.S)
_START = "☺"


@dataclasses.dataclass(frozen=True)
class Filler:
    """What a model has for it.

    :param first: the tokens that its prompts begin with
    :param marks: the tokens before the prefix, the suffix and the middle
    """

    http: Http
    first: list[int]
    marks: tuple[int, int, int]

    async def prompt(self, prefix: str, suffix: str) -> list[int]:
        """The tokens of a prompt; control tokens in its parts are text."""
        before, behind, middle = self.marks
        parts = await self._inside(prefix), await self._inside(suffix)
        return [*self.first, before, *parts[0], behind, *parts[1], middle]

    async def _inside(self, text: str) -> list[int]:
        """The tokens of a text in the middle: at a beginning some tokenizers would put a blank first."""
        start = await self.http.tokens(_START, special=False, first=False)
        tokens = await self.http.tokens(_START + text, special=False, first=False)
        if tokens[: len(start)] == start:
            return tokens[len(start) :]
        return await self.http.tokens(text, special=False, first=False)


async def find(http: Http) -> Filler | None:
    """Reads the model's marks from what the server makes of a prompt; None where it has none."""
    body = {"input_prefix": "PREFIX", "input_suffix": "SUFFIX", "n_predict": 1}
    try:
        shown = _SHOWN.fullmatch((await http.json("POST", "/infill", body))["prompt"])
    except RefusedError:
        return None
    if shown is None:
        return None
    # some tokenizers put a blank before each text
    head, between, tail = [
        await http.tokens(part.strip(" "), special=True, first=False) for part in shown.groups()
    ]
    if not head or len(between) != 1 or len(tail) != 1:
        return None
    # what stands before the prefix names a repository and a file that are none of ours
    marks = head[-1], between[0], tail[0]
    return Filler(http, await http.tokens("", special=False), marks)
