"""What /health says that a model can do works, and what it does not say is refused: by the name of the model,
with what would have it. Each kind of model with each engine."""

from __future__ import annotations

import pytest

from llmsvc.backend.capabilities import CAPABILITIES
from tests.engine import gguf_reranker
from tests.engine.gguf_copy import with_template
from tests.engine.test_thinking import TEMPLATE as THINKING
from tests.engine.test_tools import MESSAGES, SHOW, TEMPLATES, TURNS
from tests.engine.test_tools import TOOL as WEATHER

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
HELLO = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4}
FORM = {"type": "json_object"}
TRIES = {
    "chat": (CHAT, HELLO),
    "completions": (COMPLETIONS, {"prompt": "One", "max_tokens": 2}),
    "json_schema": (CHAT, {**HELLO, "response_format": FORM}),
    "logprobs": (CHAT, {**HELLO, "logprobs": True}),
    "prompt_logprobs": (COMPLETIONS, {"prompt": "One", "max_tokens": 2, "echo": True, "logprobs": 1}),
    "min_tokens": (CHAT, {**HELLO, "min_tokens": 4}),
    "tools": (CHAT, {**HELLO, "tools": [WEATHER]}),
    "reasoning": (CHAT, {**HELLO, "thinking_budget_tokens": 3}),
    "infill": (COMPLETIONS, {"prompt": "One", "suffix": "three", "max_tokens": 2}),
    "embeddings": ("/v1/embeddings", {"input": "Hello"}),
    "rerank": ("/v1/rerank", {"query": "Hello", "documents": ["Hello"]}),
}
TEXT = {"chat", "completions", "json_schema", "logprobs"}
FILL = {f"tokenizer.ggml.fim_{part}_token_id": token for part, token in (("pre", 5), ("suf", 6), ("mid", 7))}
CASES = {
    # the file, its settings, what it can, and the only engine that runs it so
    "plain": ("smollm2", "", TEXT, None),
    "logits": ("smollm2", "LOGITS_ALL=1", TEXT | {"prompt_logprobs"}, "llama-cpp-python"),
    "calls": ("calls", "", TEXT | {"tools"}, None),
    "thinks": ("thinks", "", TEXT | {"reasoning"}, None),
    "fills": ("fills", "", TEXT | {"infill"}, None),
    "embeds": ("smollm2", "EMBEDDING=1", {"embeddings"}, None),
    "ranks": ("ranks", "RERANK=1", {"rerank"}, "native"),
}


def expected(can, engine):
    """What an engine makes of what a model can."""
    if engine == "native":
        return can
    return can - {"reasoning"} | ({"min_tokens"} if can >= TEXT else set())


@pytest.fixture
def files(models, tmp_path):
    """Makes the file of a case."""

    def make(name):
        target = tmp_path / f"{name}.gguf"
        source = models / "smollm2.gguf"
        if name == "calls":
            call, history = TEMPLATES["hermes"]
            template = SHOW + TURNS.replace("CALL", call) + MESSAGES.replace("HISTORY", history)
            return with_template(source, target, template)
        if name == "thinks":
            return with_template(source, target, THINKING)
        if name == "fills":
            return with_template(source, target, None, FILL)
        return gguf_reranker.write(target) if name == "ranks" else source

    return make


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(name, marks=[pytest.mark.engine(only)] if only else [])
        for name, (*_, only) in CASES.items()
    ],
)
def test_what_is_said_to_be_there_works_and_the_rest_is_refused(start, files, engine, case):
    file, settings, can, _ = CASES[case]
    backend = start(f"MODEL={files(file)}\nN_THREADS=1\nN_CTX=256\n{settings}\n", name="mine")
    backend.wait_for("READY=1")
    said = backend.client.get("/health").json()["capabilities"]
    assert set(said) == expected(can, engine)
    for capability, (path, body) in TRIES.items():
        answer = backend.post(path, body)
        if capability in said:
            assert answer.status_code == 200, (capability, answer.text)
            assert answer.json()["usage"]["prompt_tokens"] > 0
            continue
        assert answer.status_code == 400, (capability, answer.text)
        error = answer.json()["error"]
        known = CAPABILITIES[capability if TEXT & set(said) or path not in (CHAT, COMPLETIONS) else "chat"]
        assert error["code"] == known.code, capability
        assert error["message"].startswith("mine ") and known.has in error["message"], error
    assert backend.output == ""


def test_every_capability_is_tried():
    assert set(TRIES) == set(CAPABILITIES)
