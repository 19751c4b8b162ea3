"""Events pass whole and unchanged, but for the usage chunk."""

from __future__ import annotations

import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsvc.proxy.backends import Usage
from llmsvc.proxy.sse import EventStream, usage_of_answer

USAGE = {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}


def event(data: object) -> bytes:
    return b"data: " + json.dumps(data).encode() + b"\n\n"


WORDS = [
    event({"choices": [{"delta": {"content": text}}]}) for text in ("a\n\n", '"total_tokens"', "data: [DONE]")
]
LAST = event({"choices": [], "usage": USAGE})
DONE = b"data: [DONE]\n\n"


@given(cuts=st.lists(st.integers(0, 400), max_size=12), keep=st.booleans(), crlf=st.booleans())
def test_stream_cut_anywhere_gives_the_same_whole_events(cuts: list[int], keep: bool, crlf: bool) -> None:
    data = b"".join([*WORDS, LAST, DONE])
    wanted = data if keep else b"".join([*WORDS, DONE])
    if crlf:
        data = data.replace(b"\n", b"\r\n")
    events = EventStream(keep)
    out = []
    places = sorted({min(cut, len(data)) for cut in cuts} | {0, len(data)})
    for start, end in itertools.pairwise(places):
        assert not events.done
        out.append(events.feed(data[start:end]))
    assert all(part.endswith((b"\n\n", b"\r\n\r\n")) for part in out if part)
    assert b"".join(out).replace(b"\r\n", b"\n") == wanted
    assert events.usage == Usage(3, 2)
    assert events.done
    assert not events.failed


def test_usage_in_a_chunk_with_choices_is_noted_and_kept() -> None:
    events = EventStream(keep_usage=False)
    chunk = event({"choices": [{"delta": {}, "finish_reason": "stop"}], "usage": USAGE})
    assert events.feed(chunk) == chunk
    assert events.usage == Usage(3, 2)


def test_error_event_is_noticed() -> None:
    events = EventStream(keep_usage=False)
    events.feed(WORDS[0] + event({"error": {"message": "x"}}))
    assert events.failed
    assert not events.done


@pytest.mark.parametrize(
    ("body", "usage"),
    [
        (json.dumps({"choices": [{"text": '"usage": {}'}], "usage": USAGE}).encode(), Usage(3, 2)),
        (b'{"data":[0.1],"usage":{"prompt_tokens":7,"total_tokens":7}}', Usage(7, 0)),
        (b'{"usage" :\n {"prompt_tokens":7,"total_tokens":7}, "z": 1}', Usage(7, 0)),
        (b'{"error":{}}', None),
        (b'{"usage":null}', None),
        (b"", None),
    ],
)
def test_usage_of_a_whole_answer(body: bytes, usage: Usage | None) -> None:
    assert usage_of_answer(body) == usage
