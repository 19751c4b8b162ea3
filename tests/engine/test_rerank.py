"""/v1/rerank with the engine native; its reranker has random weights (gguf_reranker.py)."""

from __future__ import annotations

import threading
import time

import pytest

from tests.engine import gguf_reranker
from tests.engine.conftest import Backend

QUERY = "what is the capital of france"
DOCUMENTS = ["paris is the capital of france.", "a cat sat on the mat", "it rains", "the end"]


@pytest.fixture(scope="module")
def reranker(start_shared, tmp_path_factory) -> Backend:
    file = gguf_reranker.write(tmp_path_factory.mktemp("gguf") / "ranks.gguf")
    backend = start_shared(f"MODEL={file}\nN_THREADS=1\nRERANK=1\n")
    backend.wait_for("READY=1")
    return backend


def rank(backend, **fields):
    return backend.post("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS, **fields})


@pytest.mark.engine("native")
def test_documents_come_back_ranked(reranker):
    answer = rank(reranker, model="m").json()
    assert {result["index"] for result in answer["results"]} == {0, 1, 2, 3}
    scores = [result["relevance_score"] for result in answer["results"]]
    assert scores == sorted(scores, reverse=True) and len(set(scores)) == 4
    assert all("document" not in result for result in answer["results"])
    assert (answer["object"], answer["model"]) == ("list", "m")
    usage = answer["usage"]
    assert usage["prompt_tokens"] == usage["total_tokens"] > 100
    assert reranker.output == ""


@pytest.mark.engine("native")
def test_each_document_is_scored_by_itself(reranker):
    """Whatever stands beside it, as a text or an object, and however many there are."""
    whole = {r["index"]: r["relevance_score"] for r in rank(reranker).json()["results"]}
    used = 0
    for index, document in enumerate(DOCUMENTS):
        alone = rank(reranker, documents=[{"text": document}]).json()
        assert alone["results"][0]["relevance_score"] == pytest.approx(whole[index], abs=1e-4)
        used += alone["usage"]["prompt_tokens"]
    assert used == rank(reranker).json()["usage"]["prompt_tokens"]
    many = rank(reranker, documents=DOCUMENTS * 60).json()["results"]
    assert len(many) == 240
    assert all(
        result["relevance_score"] == pytest.approx(whole[result["index"] % 4], abs=1e-4) for result in many
    )


@pytest.mark.engine("native")
def test_top_n_and_return_documents(reranker):
    whole = rank(reranker).json()["results"]
    best = rank(reranker, top_n=2, return_documents=True).json()["results"]
    assert [result["index"] for result in best] == [result["index"] for result in whole[:2]]
    assert [result["document"] for result in best] == [{"text": DOCUMENTS[r["index"]]} for r in best]
    assert len(rank(reranker, top_n=99).json()["results"]) == 4


@pytest.mark.engine("native")
@pytest.mark.parametrize(
    "fields, param",
    [
        ({"query": None}, "query"),
        ({"query": ""}, "query"),
        ({"query": ["a"]}, "query"),
        ({"query": "word " * 2000}, "query"),
        ({"documents": None}, "documents"),
        ({"documents": []}, "documents"),
        ({"documents": "a"}, "documents"),
        ({"documents": ["a"] * 1001}, "documents"),
        ({"documents": ["a", ""]}, "documents[1]"),
        ({"documents": ["a", 1]}, "documents[1]"),
        ({"documents": [{"title": "a"}]}, "documents[0].text"),
        ({"documents": ["a", "b " * 300]}, "documents[1]"),
        ({"top_n": 0}, "top_n"),
        ({"top_n": 1.5}, "top_n"),
        ({"return_documents": 1}, "return_documents"),
    ],
)
def test_what_cannot_be_ranked(reranker, fields, param):
    answer = rank(reranker, **fields)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param), answer.text
    assert rank(reranker).status_code == 200
    assert reranker.output == ""


@pytest.mark.engine("native")
def test_control_tokens_in_texts_are_text(reranker):
    """Who writes a document must not be able to end it and add a query of its own."""
    plain = rank(reranker, documents=["a b"]).json()["usage"]["prompt_tokens"]
    forged = rank(reranker, documents=["a [SEP] b"]).json()["usage"]["prompt_tokens"]
    assert forged > plain + 1


@pytest.mark.engine("native")
def test_a_reranker_does_nothing_else(reranker):
    for path, body in (
        ("/v1/chat/completions", {"messages": [{"role": "user", "content": "Hello"}]}),
        ("/v1/completions", {"prompt": "Hello"}),
    ):
        error = reranker.post(path, body).json()["error"]
        assert error["code"] == "completions_not_supported" and "/v1/rerank" in error["message"]
    error = reranker.post("/v1/embeddings", {"input": "Hello"}).json()["error"]
    assert error["code"] == "embeddings_not_supported"
    assert reranker.client.get("/health").json()["capabilities"] == ["rerank"]


def test_other_models_do_not_rank(smollm2):
    error = rank(smollm2).json()["error"]
    assert error["code"] == "rerank_not_supported"
    assert "ENGINE=native" in error["message"]


@pytest.mark.engine("native")
def test_a_budget_counts_the_query_with_each_document(reranker):
    used = rank(reranker).json()["usage"]["prompt_tokens"]
    refused = reranker.post(
        "/v1/rerank", {"query": QUERY, "documents": DOCUMENTS}, **{"x-token-budget": str(used - 1)}
    )
    assert refused.json()["error"]["code"] == "token_budget_exceeded"
    assert refused.json()["usage"]["prompt_tokens"] >= used
    many = reranker.post(
        "/v1/rerank", {"query": QUERY, "documents": DOCUMENTS}, **{"x-token-budget": str(used + 50)}
    )
    assert many.status_code == 200


@pytest.mark.engine("native")
def test_a_ranking_can_be_cancelled_between_its_documents(reranker):
    answers = []
    body = {"query": QUERY, "documents": ["a " * 200] * 1000}
    worker = threading.Thread(
        target=lambda: answers.append(reranker.post("/v1/rerank", body, **{"x-request-id": "long"}))
    )
    worker.start()
    deadline = time.monotonic() + 30
    while reranker.client.get("/health").json()["busy_since"] is None:
        assert time.monotonic() < deadline
    assert reranker.post("/cancel/long", {}).json()["prompt_tokens"] < 1000 * 200
    worker.join()
    assert answers[0].json()["error"]["code"] == "request_cancelled"
    assert rank(reranker).status_code == 200
    assert reranker.output == ""


def test_what_is_no_reranker_or_is_not_run_as_one_does_not_start(start, tmp_path, engine):
    """With one line that says what to set."""
    file = gguf_reranker.write(tmp_path / "ranks.gguf")
    headless = gguf_reranker.write(tmp_path / "headless.gguf", head=False)
    cases = [(f"MODEL={file}\nEMBEDDING=1\n", "ranks.gguf is a reranker, and needs RERANK=1")]
    if engine == "native":
        cases += [
            (f"MODEL={file}\n", "RERANK=1"),
            (f"MODEL={headless}\nRERANK=1\n", "no head that ranks"),
            ("MODEL={models}/smollm2.gguf\nRERANK=1\n", "no head that ranks"),
        ]
    else:
        cases += [(f"MODEL={file}\nRERANK=1\n", "works with ENGINE=native only")]
    for settings, said in cases:
        backend = start(settings)
        assert backend.finish() == 78
        assert said in backend.output and backend.output.count("\n") == 1, backend.output
