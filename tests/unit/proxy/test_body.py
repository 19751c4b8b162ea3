"""What of a request body is changed on its way, and what is not."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsvc.backend import bodies
from llmsvc.backend.bodies import Model
from llmsvc.backend.problem import ApiError as Refused
from llmsvc.proxy import body
from llmsvc.proxy.dialects import ROUTES
from llmsvc.proxy.errors import ApiError

CHAT = "/v1/chat/completions"
BOUNDS = body.Bounds(default=7, most=0)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(extra=st.dictionaries(st.text().filter(lambda k: k not in ("model", "max_tokens")), JSON, max_size=4))
def test_all_but_model_and_bound_passes_unchanged(extra: dict[str, object]) -> None:
    extra.pop("max_completion_tokens", None)
    out = body.parse(json.dumps({**extra, "model": "current"}).encode(), ROUTES[CHAT]).outgoing("m", BOUNDS)
    assert json.loads(out) == {**extra, "model": "m", "max_tokens": 7}


def test_body_that_needs_no_change_passes_byte_for_byte() -> None:
    raw = b'{ "model":"m",\n "max_tokens": 5 }'
    assert body.parse(raw, ROUTES[CHAT]).outgoing("m", BOUNDS) is raw


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
    out = json.loads(body.parse(json.dumps(sent).encode(), ROUTES[path]).outgoing("m", BOUNDS))
    assert out.get("max_tokens") == bound


@pytest.mark.parametrize(
    ("sent", "max_tokens"),
    [
        ({}, 5),
        ({"max_tokens": 3}, 3),
        ({"max_tokens": 6}, 5),
        ({"max_completion_tokens": 6}, 5),
        ({"max_completion_tokens": 3, "max_tokens": 9}, 9),
        ({"max_tokens": 0}, 5),
        ({"max_tokens": -1}, 5),
        ({"max_tokens": 10**30}, 5),
        # the backend says what is wrong with these
        ({"max_tokens": True}, True),
        ({"max_tokens": 6.0}, 6.0),
        ({"max_tokens": "6"}, "6"),
    ],
)
def test_no_answer_is_longer_than_the_limit(sent: dict[str, object], max_tokens: object) -> None:
    parsed = body.parse(json.dumps(sent).encode(), ROUTES[CHAT])
    out = json.loads(parsed.outgoing("m", body.Bounds(default=7, most=5)))
    assert out["max_tokens"] == max_tokens
    if max_tokens == 5:
        assert "max_completion_tokens" not in out


LENGTHS = st.none() | st.integers(-2, 9) | st.sampled_from([-1.0, 4.0, 9.0, True, "9", 1e300, 10**30])


@given(path=st.sampled_from([CHAT, "/v1/completions"]), old=LENGTHS, new=LENGTHS)
def test_the_backend_reads_no_longer_answer_out_of_it_than_the_limit(
    path: str, old: object, new: object
) -> None:
    sent = {"messages": [{"role": "user", "content": "x"}], "prompt": "x"}
    raw = json.dumps({**sent, "max_tokens": old, "max_completion_tokens": new}).encode()
    out = bodies.parse(body.parse(raw, ROUTES[path]).outgoing("m", body.Bounds(default=4, most=5)))
    make = bodies.chat if path == CHAT else bodies.completion
    try:
        given_to_engine = make(out, Model("m", "m.gguf", n_vocab=9)).body
    except Refused:
        return
    assert given_to_engine["max_tokens"] <= 5


def test_without_a_limit_an_answer_may_take_what_fits() -> None:
    parsed = body.parse(b'{"max_tokens": -1}', ROUTES[CHAT])
    assert parsed.answer_tokens(BOUNDS) is None
    assert json.loads(parsed.outgoing("m", BOUNDS))["max_tokens"] == -1


def test_deeply_nested_body_is_refused_not_a_crash() -> None:
    with pytest.raises(ApiError):
        body.parse(b"[" * 100_000, ROUTES[CHAT])
