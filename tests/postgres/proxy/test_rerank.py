"""Ranking and embeddings through a running proxy: one row each, and limits of tokens that fit them."""

from __future__ import annotations

from typing import Any

PATH = "/v1/rerank"
BODY = {"query": "two words", "documents": ["and", "these", "five more", "words"]}
TOKENS = 4 * 2 + 5
"""The query is read with each document."""


def rank(stack: Any, key: str, **more: Any) -> Any:
    with stack.http(key) as http:
        return http.post(PATH, json={**BODY, **more})


def test_a_ranking_is_answered_and_its_row_is_exact(stack: Any) -> None:
    answer = rank(stack, stack.add_key("ranks"), model="current")
    assert [result["index"] for result in answer.json()["results"]] == [0, 1, 2, 3]
    [row] = stack.rows("ranks", 1)
    assert (row["state"], row["status_code"], row["path"], row["model"]) == ("ok", 200, PATH, "mock")
    assert (row["prompt_tokens"], row["completion_tokens"]) == (TOKENS, 0)
    assert "max_tokens" not in stack.mock()["bodies"][-1]


def test_what_others_call_it_is_a_404_with_a_hint(stack: Any) -> None:
    with stack.http(stack.add_key()) as http:
        for path in ("/rerank", "/v1/reranking", "/v2/rerank"):
            answer = http.post(path, json=BODY)
            assert answer.status_code == 404
            assert "/v1/rerank" in answer.json()["error"]["message"]
        assert http.get(PATH).status_code == 405


def test_tokens_are_limited_also_beyond_the_bytes_of_the_body(stack: Any) -> None:
    key = stack.add_key("few", tokens_per_minute=TOKENS + 3)
    assert rank(stack, key).status_code == 200
    refused = rank(stack, key)
    assert (refused.status_code, refused.json()["error"]["type"]) == (429, "tokens")
    body = {"query": "word " * 100, "documents": ["a"] * 500}
    with stack.http(stack.add_key(tokens_per_minute=60_000)) as http:
        # far more tokens than bytes
        assert http.post(PATH, json=body).json()["usage"]["prompt_tokens"] == 500 * 101


def test_many_texts_may_take_more_tokens_than_the_context_has(stack: Any) -> None:
    """Of a user whose tokens are limited, too: each text has the context for itself."""
    with stack.http(stack.add_key(tokens_per_minute=10_000)) as http:
        answer = http.post("/v1/embeddings", json={"input": ["two words"] * 3000})
        assert answer.status_code == 200, answer.text
        assert answer.json()["usage"]["prompt_tokens"] == 6000
        assert http.get("/v1/models/current").json()["context_length"] == 4096
