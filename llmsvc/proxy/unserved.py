"""What a client hears that asks for something we do not have: what it probably meant, and what there is."""

from __future__ import annotations

import re
from collections.abc import Collection

SERVED = (
    "GET /v1/models, /v1/queue, /v1/usage, /metrics, /health, /ready, /openapi.json; POST "
    "/v1/chat/completions, /v1/completions, /v1/responses, /v1/responses/input_tokens, /v1/messages, "
    "/v1/messages/count_tokens, /v1/embeddings, /v1/rerank, /v1/requests/ID/cancel, /extras/tokenize, "
    "/extras/tokenize/count, /extras/detokenize"
)

_CHAT = "use POST /v1/chat/completions"
_ELSEWHERE = (
    (
        re.compile(r"(/v1)?/responses/"),
        "answers are not kept here; of the Responses API there are /v1/responses and its input_tokens",
    ),
    (re.compile(r"(/v[12])?/rerank(ing)?\b"), "documents are ranked by POST /v1/rerank"),
    (re.compile(r"(/v1)?/(audio|images|videos|moderations|realtime)\b"), "the model answers with text alone"),
    (
        re.compile(
            r"(/v1)?/(assistants|threads|vector_stores|files|uploads|batches|fine_tuning|evals|containers)\b"
        ),
        f"nothing is stored here; {_CHAT} or /v1/embeddings",
    ),
    (re.compile(r"(/v1)?/messages\b"), "of Anthropic's API there are /v1/messages and its count_tokens"),
    (
        re.compile(r"/api/(chat|generate|tags|show|embed|embeddings|ps|version)\b"),
        f"this is OpenAI's API, not Ollama's; {_CHAT}",
    ),
    (re.compile(r"(/v1)?/engines\b|/openai/deployments\b"), "name the model in the body, or 'current'"),
    (re.compile(r"/(docs|redoc)\b"), "the description of the API is at /openapi.json"),
)


def hint(path: str, served: Collection[str]) -> str | None:
    """What is probably wrong with this path; None if nobody knows.

    :param served: the paths that are served
    """
    bare = re.sub("//+", "/", path).rstrip("/")
    for start in ("/v1/v1", "/api/v1", "/openai/v1"):
        if bare.startswith(start + "/messages"):
            return "the base URL of Anthropic's clients ends without /v1"
        if bare.startswith(start + "/") and "/v1" + bare.removeprefix(start) in served:
            return f"the base URL ends in one /v1: did you mean {'/v1' + bare.removeprefix(start)}?"
    if f"/v1{bare}" in served:
        return f"the base URL ends in /v1: did you mean /v1{bare}?"
    if bare != path and bare in served:
        return f"did you mean {bare}?"
    if bare in ("", "/v1"):
        return "this is the base of the API, for OpenAI's clients and, without /v1, Anthropic's"
    return next((text for pattern, text in _ELSEWHERE if pattern.match(bare)), None)
