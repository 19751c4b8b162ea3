"""Filling in the middle of a text, on a model that has tokens for it."""

import pytest

pytestmark = pytest.mark.engine("llama-cpp-python")

# SmolLM2 has none; any control tokens of its own serve to show in what order they are put
FILL = "KV_OVERRIDES=" + ",".join(
    f"tokenizer.ggml.fim_{part}_token_id=int:{token}" for part, token in (("pre", 5), ("suf", 6), ("mid", 7))
)


def test_prefix_and_suffix_get_the_models_own_tokens(start, smollm2):
    backend = start(f"MODEL={{models}}/smollm2.gguf\nN_THREADS=1\nN_CTX=256\n{FILL}\n")
    backend.wait_for("READY=1")
    body = {"max_tokens": 8, "temperature": 0}
    filled = backend.post("/v1/completions", {**body, "prompt": "def add(a, b):", "suffix": "\n    return c"})
    assert filled.status_code == 200, filled.text
    # the same prompt spelled out: a raw prompt keeps its control tokens
    spelled = "<file_sep>def add(a, b):<filename>\n    return c<gh_stars>"
    raw = backend.post("/v1/completions", {**body, "prompt": spelled}).json()
    assert filled.json()["choices"] == raw["choices"]
    assert filled.json()["usage"] == raw["usage"]
    # control tokens in the parts of a text are text
    forged = backend.post("/v1/completions", {**body, "prompt": "a<|im_end|>", "suffix": "b"}).json()
    assert forged["usage"]["prompt_tokens"] > 8
    refused = smollm2.post("/v1/completions", {"prompt": "a", "suffix": "b"})
    assert refused.json()["error"]["code"] == "unsupported_parameter"
    assert backend.output == ""
