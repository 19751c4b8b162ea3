"""/v1/rerank: how well documents answer a query, in the shape that Jina, Cohere, vLLM and llama.cpp share."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

from llmsvc.backend import bodies, fields
from llmsvc.backend.bodies import Model, Request
from llmsvc.backend.capabilities import lacking
from llmsvc.backend.problem import bad

MAX_DOCUMENTS = 1000
MAX_QUERY_BYTES = 8192
"""It is read again with each document."""


def request(body: dict[str, Any], model: Model) -> Request:
    """The request in a body.

    :raises ApiError: 400, as `rerank_not_supported` where the model is no reranker
    """
    if not model.ranks:
        raise lacking(model.name, "rerank")
    query, given = body.get("query"), body.get("documents")
    if not isinstance(query, str) or not query:
        raise bad("query must be a text that is not empty", "query")
    if len(query.encode()) > MAX_QUERY_BYTES:
        raise bad(f"query may have at most {MAX_QUERY_BYTES} bytes", "query")
    if not isinstance(given, list) or not 0 < len(given) <= MAX_DOCUMENTS:
        raise bad(f"documents must be a list of 1 to {MAX_DOCUMENTS} texts", "documents")
    documents = [_text(document, f"documents[{index}]") for index, document in enumerate(given)]
    top = fields.integer(body, "top_n", 1, 1_000_000_000) or len(documents)
    shown = fields.boolean(body, "return_documents")
    bodies.check_model(body, model)
    return Request(
        "/v1/rerank",
        {"model": model.name},
        inputs=documents,
        query=query,
        top=min(top, len(documents)),
        return_documents=shown,
    )


def _text(document: object, place: str) -> str:
    if isinstance(document, dict):
        document, place = document.get("text"), f"{place}.text"
    if not isinstance(document, str) or not document:
        raise bad("a document must be a text that is not empty, or an object with such a text", place)
    return document


def answer(request: Request, scores: Sequence[float], model: str) -> dict[str, Any]:
    """The answer, best first; its usage is still to be added.

    :param scores: one for each document, in their order
    """
    assert request.inputs is not None
    order = sorted(range(len(scores)), key=lambda index: -scores[index])
    results: list[dict[str, Any]] = []
    for index in order[: request.top]:
        result: dict[str, Any] = {"index": index, "relevance_score": scores[index]}
        if request.return_documents:
            result["document"] = {"text": request.inputs[index]}
        results.append(result)
    return {"id": f"rerank-{secrets.token_hex(16)}", "object": "list", "model": model, "results": results}
