"""What of a request body is changed on its way, and what is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsvc.proxy import body
from llmsvc.proxy.errors import ApiError

CHAT = "/v1/chat/completions"

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(extra=st.dictionaries(st.text().filter(lambda k: k not in ("model", "max_tokens")), JSON, max_size=4))
def test_all_but_model_and_bound_passes_unchanged(extra: dict[str, object]) -> None:
    extra.pop("max_completion_tokens", None)
    out = body.parse(json.dumps({**extra, "model": "current"}).encode()).outgoing(CHAT, "m", 7)
    assert json.loads(out) == {**extra, "model": "m", "max_tokens": 7}


def test_body_that_needs_no_change_passes_byte_for_byte() -> None:
    raw = b'{ "model":"m",\n "max_tokens": 5 }'
    assert body.parse(raw).outgoing(CHAT, "m", 7) is raw


@pytest.mark.parametrize(
    ("path", "sent", "bound"),
    [
        (CHAT, {}, 7),
        ("/v1/completions", {"max_tokens": None}, 7),
        (CHAT, {"max_tokens": 9}, 9),
        (CHAT, {"max_completion_tokens": 9}, None),
        ("/v1/embeddings", {}, None),
    ],
)
def test_answers_without_a_bound_get_one(path: str, sent: dict[str, object], bound: int | None) -> None:
    out = json.loads(body.parse(json.dumps(sent).encode()).outgoing(path, "m", 7))
    assert out.get("max_tokens") == bound


def test_deeply_nested_body_is_refused_not_a_crash() -> None:
    with pytest.raises(ApiError):
        body.parse(b"[" * 100_000)
