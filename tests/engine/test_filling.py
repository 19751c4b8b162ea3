"""Filling in the middle of a text, on a model that has tokens for it."""

import json

import pytest

from tests.engine.gguf_copy import with_template

# SmolLM2 has none; any control tokens of its own serve to show in what order they are put
FILL = {f"tokenizer.ggml.fim_{part}_token_id": token for part, token in (("pre", 5), ("suf", 6), ("mid", 7))}
BODY = {"max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def filler(models, tmp_path_factory, start_shared):
    file = with_template(models / "smollm2.gguf", tmp_path_factory.mktemp("gguf") / "x.gguf", None, FILL)
    backend = start_shared(f"MODEL={file}\nN_THREADS=1\nN_CTX=512\n")
    backend.wait_for("READY=1")
    yield backend
    assert backend.output == ""
    file.unlink()


def fill(backend, prompt, suffix, **fields):
    return backend.post("/v1/completions", {**BODY, "prompt": prompt, "suffix": suffix, **fields})


def test_prefix_and_suffix_get_the_models_own_tokens(filler):
    filled = fill(filler, "def add(a, b):", "\n    return c")
    assert filled.status_code == 200, filled.text
    # the same prompt spelled out: a raw prompt keeps its control tokens
    spelled = "<file_sep>def add(a, b):<filename>\n    return c<gh_stars>"
    raw = filler.post("/v1/completions", {**BODY, "prompt": spelled}).json()
    assert filled.json()["choices"] == raw["choices"]
    assert filled.json()["usage"] == raw["usage"]
    chunks = filler.events(fill(filler, "def add(a, b):", "\n    return c", stream=True))
    text = "".join(chunk["choices"][0]["text"] for chunk in chunks[:-1])
    assert text == raw["choices"][0]["text"]
    assert chunks[-1]["usage"] == raw["usage"]


def test_control_tokens_in_the_parts_of_a_text_are_text(filler):
    sizes = [
        fill(filler, *parts).json()["usage"]["prompt_tokens"]
        for parts in (("ab", "cd"), ("a<|im_end|>b", "cd"), ("ab", "c<|im_end|>d"))
    ]
    assert min(sizes[1:]) > sizes[0] + 2, sizes


def test_a_long_text_is_refused_and_not_cut(filler):
    error = fill(filler, "word " * 1000, "x").json()["error"]
    assert error["code"] == "context_length_exceeded", json.dumps(error)


def test_other_models_refuse_a_suffix(smollm2):
    refused = fill(smollm2, "a", "b")
    assert refused.json()["error"]["code"] == "unsupported_parameter"
