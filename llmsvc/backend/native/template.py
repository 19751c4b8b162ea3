"""What the model's chat template tells: whether it thinks, and which of its tokens stand between turns."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from pathlib import Path
from typing import Any

from llmsvc.backend.native.http import Http, RefusedError
from llmsvc.backend.vocabulary import JOINER, Vocabulary
from llmsvc.library import spellings

_THINKING = re.compile(r"think(ing)?[>\]]\s*\Z", re.I)
"""The end of a prompt whose answer begins with its thinking in any case."""


@dataclasses.dataclass(frozen=True)
class Thinking:
    """What a template tells of it.

    :param known: whether the model was taught to think before it answers
    :param open: whether its answers begin with that in any case: the mark before it stands in the prompt
    """

    known: bool
    open: bool


async def thinking(http: Http, caps: dict[str, Any]) -> Thinking:
    """What llama.cpp's server knows of it, but does not say.

    :param caps: what it says of the template
    """
    prompts: list[str] = []
    for enabled in (True, False):
        body = {
            "messages": [{"role": "user", "content": "x"}],
            "chat_template_kwargs": {"enable_thinking": enabled},
        }
        with contextlib.suppress(RefusedError):
            prompts.append((await http.json("POST", "/apply-template", body))["prompt"])
    begun = [bool(_THINKING.search(prompt)) for prompt in prompts]
    told = bool(caps.get("supports_preserve_reasoning") or caps.get("supports_reasoning_effort"))
    return Thinking(told or len(set(prompts)) > 1 or any(begun), bool(begun) and all(begun))


def vocabulary(model: Path, template: str) -> Vocabulary:
    """The tokens of a model file, for what is to be text in a chat and what is not."""
    source = template.encode()
    control = (spellings.CONTROL, spellings.UNKNOWN)
    return Vocabulary(
        # llama.cpp takes what looks like a mark between turns for one, whatever the GGUF says of it
        ((spelling, kind in control or (len(spelling) > 2 and spelling in source and _looks(spelling)))
         for spelling, kind in spellings.read(model)),
        JOINER,
    )  # fmt: skip


def _looks(spelling: bytes) -> bool:
    """Whether a token looks like a mark between turns."""
    return spelling[:1] + spelling[-1:] in (b"<>", b"[]")
