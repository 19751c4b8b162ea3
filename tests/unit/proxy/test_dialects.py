"""What the proxy reads out of streams and answers of Anthropic's, and its own errors in their shape."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsvc.proxy import sse
from llmsvc.proxy.backends import Usage
from llmsvc.proxy.dialects import ROUTES
from llmsvc.proxy.errors import ApiError, unavailable

DIALECT = ROUTES["/v1/messages"]


def event(kind: str, **more: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()


USAGE = {"input_tokens": 3, "output_tokens": 2}
TEXTS = [
    event("content_block_delta", delta={"text": text})
    for text in ("a\n\n", "event: error\ndata: ", "event: message_stop\n", '"usage"')
]
START = event("message_start", message={"usage": {"input_tokens": 3, "output_tokens": 0}})
DELTA, STOP = event("message_delta", usage=USAGE), event("message_stop")
STOPPING = {"type": "overloaded_error", "message": "x", "details": {"error_code": "model_stopping"}}


@given(cuts=st.lists(st.integers(0, 500), max_size=12))
def test_a_stream_cut_anywhere_passes_whole_and_unchanged(cuts: list[int]) -> None:
    data = wanted = b"".join([START, *TEXTS, DELTA, STOP])
    events = DIALECT.stream(keep_usage=False)
    out = []
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(places):
        assert not events.done
        out.append(events.feed(data[start:end]))
    assert b"".join(out) == wanted
    assert events.usage == Usage(3, 2)
    assert events.done
    assert not events.failed


@pytest.mark.parametrize(("error", "stopping"), [(STOPPING, True), ({"type": "api_error"}, False)])
def test_an_error_event_is_noticed_and_its_usage_counts(error: dict[str, object], stopping: bool) -> None:
    events = DIALECT.stream(keep_usage=False)
    failed = event("error", error=error, usage=USAGE)
    assert events.feed(START + TEXTS[0] + failed).endswith(failed)
    assert (events.failed, events.stopping, events.done) == (True, stopping, False)
    assert events.usage == Usage(3, 2)


def test_the_usage_of_a_whole_answer_is_the_last_one_in_it() -> None:
    block = {"type": "tool_use", "input": {"usage": {"input_tokens": 9}}}
    assert sse.usage_of_answer(json.dumps({"content": [block], "usage": USAGE}).encode()) == Usage(3, 2)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request_error"),
        (405, "invalid_request_error"),
        (401, "authentication_error"),
        (403, "permission_error"),
        (404, "not_found_error"),
        (408, "timeout_error"),
        (413, "request_too_large"),
        (429, "rate_limit_error"),
        (500, "api_error"),
        (502, "api_error"),
        (503, "overloaded_error"),
        (504, "timeout_error"),
    ],
)
def test_errors_are_of_anthropics_types(status: int, kind: str) -> None:
    told = json.loads(DIALECT.error(ApiError(status, "no", param="x"), b"id"))
    assert told == {"type": "error", "error": {"type": kind, "message": "no"}, "request_id": "id"}


def test_an_error_event_is_one_that_the_stream_would_notice() -> None:
    stopping = unavailable("x", "model_stopping")
    told = DIALECT.error_event(DIALECT.error(stopping, b"id"))
    events = DIALECT.stream(keep_usage=False)
    assert events.feed(told) == told
    assert (events.failed, events.stopping) == (True, True)
