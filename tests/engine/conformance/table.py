"""What each client saw of each feature with each engine, and docs/conformance.md, which is made of it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import anthropic
import openai

from tests.engine.conftest import ENGINES

CLIENTS = ("openai (Python)", "openai (JavaScript)", "langchain-openai", "anthropic (Python)")
WORKS = "works"
UNTRIED = "-"
NATIVE = "; native: "

HEAD = """# What clients of OpenAI's API, and of Anthropic's, can use

Made by the tests, which run each client against a real proxy with a real model (SmolLM2) in each engine: do
not edit. To make it anew:

    sudo tests/run engine -- -k conformance --write-docs

The clients' versions are those in `tests/requirements.lock` and `tests/engine/conformance/package-lock.json`.

- *works*: the client got what it is to get.
- A status and a code: it is refused so, and the client raises its own exception for it.
- A dash: not tried, for the client has no such feature or it is the same call.
- What stands behind *native:* is what the engine `native` does where that is something else than what stands
  before it, for the default engine. [Which engine when](engines.md) has the reasons.

"""

FEATURES = (
    "list of models",
    "chat",
    "chat, streamed",
    "usage in a stream, where asked for",
    "no usage in a stream, where not",
    "role developer",
    "max_completion_tokens",
    "content in parts",
    "an image",
    "stop",
    "the same seed, the same answer",
    "n above 1",
    "JSON object",
    "JSON schema",
    "JSON schema, streamed",
    "JSON schema from a class, parsed into it",
    "JSON schema with pattern",
    "a function, named in tool_choice",
    "a function, named, streamed",
    "functions, the model's choice",
    "functions, the model's choice, streamed",
    "functions, the model's choice, of a model that knows none",
    "a conversation with a function's result",
    "logprobs",
    "logprobs, streamed",
    "logprobs of the prompt (echo)",
    "logprobs of the prompt (echo), LOGITS_ALL=1",
    "completions",
    "completions, streamed",
    "completions with suffix",
    "completions with several prompts",
    "responses",
    "responses, streamed",
    "responses, JSON schema from a class, parsed into it",
    "responses, a function, named, streamed",
    "responses, the loop of an agent",
    "responses, metadata, store",
    "responses with previous_response_id",
    "responses with a tool of OpenAI's own",
    "embeddings on a chat model",
    "embeddings, EMBEDDING=1",
    "chat on an embedding model",
    "tokens of a prompt, counted",
    "thinking told apart, ENGINE=native",
    "thinking told apart, streamed, ENGINE=native",
    "thinking in responses, ENGINE=native",
    "several calls at once, ENGINE=native",
    "completions with suffix, of a model for it, ENGINE=native",
    "documents ranked, RERANK=1, ENGINE=native",
    "chat on a reranker, ENGINE=native",
    "a wrong key",
    "an unknown model",
    "a prompt longer than the context",
    "a value out of range",
    "more requests than allowed",
)
"""The rows, in their order."""


class Table:
    """Filled in by the tests of a run."""

    def __init__(self) -> None:
        self.cells: dict[tuple[str, str, str], str] = {}
        """By engine, client and feature."""

    @contextlib.contextmanager
    def saw(self, engine: str, client: str, feature: str) -> Iterator[None]:
        """The body tries the feature: it works, is refused by an exception of the SDK, or the test fails."""
        try:
            yield
        except (openai.APIStatusError, anthropic.APIStatusError) as error:
            if error.status_code >= 500:
                raise
            code = error.code if isinstance(error, openai.APIStatusError) else error.error_code
            self.note(
                engine, client, feature, f"{error.status_code} `{code}`" if code else str(error.status_code)
            )
        else:
            self.note(engine, client, feature, WORKS)

    def note(self, engine: str, client: str, feature: str, outcome: str) -> None:
        assert engine in ENGINES and client in CLIENTS and feature in FEATURES
        self.cells[engine, client, feature] = outcome

    def text(self) -> str:
        """The whole file."""
        rows = [("Feature", *CLIENTS), ("---",) * (len(CLIENTS) + 1)]
        rows += [(feature, *(self._cell(client, feature) for client in CLIENTS)) for feature in FEATURES]
        return HEAD + "".join(f"| {' | '.join(row)} |\n" for row in rows)

    def _cell(self, client: str, feature: str) -> str:
        default, native = (self.cells.get((engine, client, feature), UNTRIED) for engine in ENGINES)
        only_native = feature.endswith("ENGINE=native")
        return native if native == default or only_native else f"{default}{NATIVE}{native}"


def read(text: str) -> dict[tuple[str, str, str], str]:
    """The cells of a file that text() made."""
    lines = [line.strip("| \n").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    found = {}
    for row in lines[2:]:
        for client, cell in zip(lines[0][1:], row[1:], strict=True):
            default, _, native = cell.partition(NATIVE)
            for engine, outcome in zip(ENGINES, (default, native or default), strict=True):
                if outcome != UNTRIED:
                    found[engine, client, row[0]] = outcome
    return found
