"""What a model can be asked for, by the names that /health and /v1/models say, and what is told of the rest.

docs/requests.md has the table for people.
"""

from __future__ import annotations

import dataclasses

from llmsvc.backend.problem import ApiError, bad


@dataclasses.dataclass(frozen=True)
class Capability:
    """One of them.

    :param lacks: what a model does that has it not
    :param has: what would have it
    :param code: of the refusal
    """

    lacks: str
    has: str
    code: str


_CHAT = "a model without EMBEDDING=1 and RERANK=1 does"
CAPABILITIES = {
    "chat": Capability("answers no chats", _CHAT, "completions_not_supported"),
    "completions": Capability("completes no texts", _CHAT, "completions_not_supported"),
    "json_schema": Capability("answers no chats", _CHAT, "completions_not_supported"),
    "logprobs": Capability("answers no chats", _CHAT, "completions_not_supported"),
    "prompt_logprobs": Capability(
        "gives no logprobs of a prompt (echo)",
        "with ENGINE=llama-cpp-python and LOGITS_ALL=1 it would",
        "logprobs_not_supported",
    ),
    "min_tokens": Capability(
        "cannot be held to min_tokens", "with ENGINE=llama-cpp-python it could", "unsupported_parameter"
    ),
    "tools": Capability(
        "cannot choose a function by itself",
        "name one in tool_choice, or use a model that was taught to call functions",
        "tools_not_supported",
    ),
    "reasoning": Capability(
        "does not think apart from its answer",
        "a reasoning model with ENGINE=native does",
        "reasoning_not_supported",
    ),
    "infill": Capability(
        "has no tokens for a suffix", "models that were made to complete code do", "unsupported_parameter"
    ),
    "embeddings": Capability(
        "makes no embeddings", "a model with EMBEDDING=1 does", "embeddings_not_supported"
    ),
    "rerank": Capability(
        "does not rank documents", "a reranker with ENGINE=native and RERANK=1 does", "rerank_not_supported"
    ),
}


def lacking(model: str, capability: str, param: str | None = None) -> ApiError:
    """The refusal of what this model cannot do.

    :param model: its name
    :param param: the field of the request that asks for it
    """
    found = CAPABILITIES[capability]
    return bad(f"{model} {found.lacks}; {found.has}", param, found.code)
