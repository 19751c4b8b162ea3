"""Tokens become text: whole characters, and no stop text."""

import pytest

from llmsvc.backend import logprobs
from llmsvc.backend.logprobs import Entry
from llmsvc.backend.stops import held
from llmsvc.backend.texts import Text


def feed(pieces, stops=()):
    text = Text(dict(enumerate(pieces)).__getitem__, list(stops))
    out = []
    for token in range(len(pieces)):
        out.append(text.feed(token))
        if text.stopped is not None:
            break
    return out, text.stopped, "" if text.stopped is not None else text.end()


def test_a_character_waits_for_all_its_bytes():
    smile = "\U0001f600".encode()
    assert feed([b"a", smile[:1], smile[1:3], smile[3:] + b"b"]) == (["a", "", "", "\U0001f600b"], None, "")


def test_bytes_that_are_no_character_are_left_out():
    assert feed([b"a\xff", b"b\xe2\x82", b"c"]) == (["a", "b", "c"], None, "")


@pytest.mark.parametrize(
    ("pieces", "stops", "sent", "stopped", "rest"),
    [
        ([b"one S", b"TO", b"P two"], ["STOP"], ["one ", "", ""], "STOP", ""),
        ([b"one ST", b"one"], ["STOP"], ["one ", "STone"], None, ""),
        ([b"one ST"], ["STOP"], ["one "], None, "ST"),
        ([b"a b c"], ["c", "b"], ["a "], "b", ""),
        ([b"a bc d"], ["b", "bc"], ["a "], "bc", ""),
        ([b"aab", b"aac"], ["aabaac"], ["", ""], "aabaac", ""),
        ([b"aab", b"aab"], ["aabaac"], ["", "aab"], None, "aab"),
    ],
)
def test_a_stop_text_ends_the_answer_and_is_no_part_of_it(pieces, stops, sent, stopped, rest):
    assert feed(pieces, stops) == (sent, stopped, rest)


def test_how_much_may_be_the_beginning_of_a_mark():
    assert held("x <t", ["<tool>", "<b>"]) == 2
    assert held("x <tool>", ["<tool>"]) == 0
    assert held("<<", ["<<<"]) == 2
    assert held("", ["a"]) == 0


def test_the_place_of_a_token_counts_characters_that_are_spread_over_several():
    entries = [Entry(token, -1.0, []) for token in (b"a", b"\xf0\x9f", b"\x8e\x89b", b"c")]
    assert logprobs.completion(entries, logprobs.Places(5))["text_offset"] == [5, 6, 6, 8]
