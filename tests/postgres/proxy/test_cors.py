"""Which pages may use the API from a browser."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import httpx
import pytest

PAGE = "https://chat.example.org"


@pytest.fixture(scope="module")
def open_to_a_page(make_module_stack: Callable[..., Any]) -> Any:
    stack = make_module_stack(LLAMA_PROXY_CORS_ORIGINS=f"{PAGE} http://localhost:3000")
    stack.start_backend()
    stack.start_proxy()
    stack.wait_served()
    return stack


def preflight(stack: Any, origin: str, headers: str) -> httpx.Response:
    return httpx.options(
        f"{stack.url}/v1/chat/completions",
        headers={
            "origin": origin,
            "access-control-request-method": "POST",
            "access-control-request-headers": headers,
        },
        trust_env=False,
        verify=False,
        timeout=60,
    )


def test_preflight_needs_no_key_and_lets_the_sdks_headers_in(open_to_a_page: Any) -> None:
    sent = ["authorization", "content-type", "x-stainless-retry-count", "x-api-key", "anthropic-beta"]
    asked = ",".join([*sent[:3], "x-evil", *sent[3:]])
    answer = preflight(open_to_a_page, PAGE, asked)
    assert answer.status_code == 204
    assert answer.headers["access-control-allow-origin"] == PAGE
    assert "POST" in answer.headers["access-control-allow-methods"]
    allowed = answer.headers["access-control-allow-headers"].split(", ")
    assert allowed == sent
    assert "access-control-allow-credentials" not in answer.headers


def test_answers_may_be_read_by_that_page_alone(open_to_a_page: Any) -> None:
    stack = open_to_a_page
    with stack.http(stack.add_key()) as client:
        for origin, allowed in [(PAGE, PAGE), ("https://evil.example", None), (None, None)]:
            headers = {"origin": origin} if origin else {}
            for answer in (
                client.get("/v1/models", headers=headers),
                client.post("/v1/chat/completions", json={"messages": []}, headers=headers),
                client.post("/v1/chat/completions", json={}, headers={**headers, "authorization": "x"}),
                client.get("/nothing", headers=headers),
            ):
                assert answer.headers.get("access-control-allow-origin") == allowed
                assert answer.headers["vary"] == "Origin"
        exposed = client.get("/health", headers={"origin": PAGE}).headers["access-control-expose-headers"]
    assert {"x-request-id", "x-ratelimit-remaining-requests", "retry-after"} <= set(exposed.split(", "))
    refused = preflight(stack, "https://evil.example", "authorization")
    assert not [name for name in refused.headers if name.startswith("access-control")]


def test_off_by_default(stack: Any) -> None:
    answer = preflight(stack, PAGE, "authorization")
    assert not [name for name in answer.headers if name.startswith("access-control")]
