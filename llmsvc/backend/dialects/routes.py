"""Which path speaks which dialect."""

from __future__ import annotations

from llmsvc.backend import bodies
from llmsvc.backend.dialects import Dialect
from llmsvc.backend.dialects.openai import OpenAI

ROUTES: dict[str, Dialect] = {
    "/v1/chat/completions": OpenAI(bodies.chat),
    "/v1/completions": OpenAI(bodies.completion),
    "/v1/embeddings": OpenAI(bodies.embedding),
}
"""The paths that take the model's turn."""

_OTHERS = OpenAI(bodies.chat)


def of(path: str) -> Dialect:
    """How errors of a path are worded, whatever it is."""
    return ROUTES.get(path, _OTHERS)
