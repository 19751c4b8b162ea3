"""Which path speaks which dialect."""

from __future__ import annotations

from llmsvc.backend import bodies, reranking
from llmsvc.backend.dialects import Counting, Dialect, anthropic, responses
from llmsvc.backend.dialects.openai import OpenAI

ROUTES: dict[str, Dialect] = {
    "/v1/chat/completions": OpenAI(bodies.chat),
    "/v1/completions": OpenAI(bodies.completion),
    "/v1/embeddings": OpenAI(bodies.embedding),
    "/v1/messages": anthropic.Anthropic(),
    "/v1/responses": responses.Responses(),
    "/v1/rerank": OpenAI(reranking.request),
}
"""The paths that take the model's turn."""

COUNTS: dict[str, Counting] = {
    "/v1/messages/count_tokens": anthropic.Counting(),
    "/v1/responses/input_tokens": responses.Counting(),
}
"""Those that need of the model only its vocabulary and template."""

EXTRAS = ("/extras/tokenize", "/extras/tokenize/count", "/extras/detokenize")
"""Those of llama_cpp.server's that need only the vocabulary."""

PUBLIC = frozenset({*ROUTES, *COUNTS, *EXTRAS})
"""All that users may ask for; the others are between proxy and backend."""

_OTHERS = OpenAI(bodies.chat)


def of(path: str) -> Dialect:
    """How errors of a path are worded, whatever it is."""
    return ROUTES.get(path) or COUNTS.get(path) or _OTHERS
