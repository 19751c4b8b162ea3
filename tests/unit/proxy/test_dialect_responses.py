"""What the proxy reads out of streams of the Responses API, and its own errors as their events."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsvc.proxy import sse
from llmsvc.proxy.backends import Usage
from llmsvc.proxy.dialects import ROUTES
from llmsvc.proxy.errors import upstream_lost

DIALECT = ROUTES["/v1/responses"]
USAGE = {"input_tokens": 3, "output_tokens": 2, "total_tokens": 5}


def event(kind: str, **more: object) -> bytes:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **more})}\n\n".encode()


START = event("response.created", response={"status": "in_progress", "usage": None})
TEXTS = [
    event("response.output_text.delta", delta=text)
    for text in (
        "a\n\n",
        "event: error\ndata: ",
        "event: response.completed\n",
        '"usage"',
        "data: [DONE]\n\n",
    )
]
STOPPING = {"message": "x", "code": "model_stopping"}


@pytest.mark.parametrize("end", ["response.completed", "response.incomplete"])
@given(cuts=st.lists(st.integers(0, 600), max_size=12))
def test_a_stream_cut_anywhere_passes_whole_and_unchanged(end: str, cuts: list[int]) -> None:
    data = b"".join([START, *TEXTS, event(end, response={"usage": USAGE})])
    events = DIALECT.stream(keep_usage=False)
    out = []
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, stop in itertools.pairwise(places):
        assert not events.done
        out.append(events.feed(data[start:stop]))
    assert b"".join(out) == data
    assert events.usage == Usage(3, 2)
    assert (events.done, events.failed) == (True, False)


@pytest.mark.parametrize(("error", "stopping"), [(STOPPING, True), ({"code": "server_error"}, False)])
def test_an_error_event_is_noticed_and_the_usage_of_the_failure_counts(
    error: dict[str, object], stopping: bool
) -> None:
    events = DIALECT.stream(keep_usage=False)
    end = event("error", error=error) + event("response.failed", response={"usage": USAGE})
    assert events.feed(START + TEXTS[0] + end).endswith(end)
    assert (events.failed, events.stopping, events.done) == (True, stopping, False)
    assert events.usage == Usage(3, 2)


def test_a_stream_that_just_ends_has_no_end() -> None:
    events = DIALECT.stream(keep_usage=False)
    events.feed(START + b"".join(TEXTS))
    assert (events.done, events.usage) == (False, None)


def test_the_usage_of_a_whole_answer_is_the_last_one_in_it() -> None:
    metadata = {"usage": '{"usage": {"input_tokens": 9}}'}
    answer = {"metadata": metadata, "tools": [{"usage": {"input_tokens": 9}}], "usage": USAGE}
    assert sse.usage_of_answer(json.dumps(answer).encode()) == Usage(3, 2)


def test_an_error_of_the_proxys_own_is_an_event_that_sdks_raise_and_others_read() -> None:
    told = DIALECT.error_event(DIALECT.error(upstream_lost(), b"id")).decode()
    head, _, data = told.partition("\n")
    assert head == "event: error"
    assert told.endswith("\n\n")
    error = json.loads(data.removeprefix("data: "))
    assert (error["type"], error["code"], error["error"]["code"]) == (
        "error",
        "upstream_lost",
        "upstream_lost",
    )
    assert error["message"] == error["error"]["message"]
