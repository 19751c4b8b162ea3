"""Function calls are found in what models write, however it is cut into pieces; call syntax is no content."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmsvc.backend.calls import Hermes, Llama, Mistral, Only, syntax_of
from llmsvc.backend.parser import Parser
from llmsvc.backend.replies import Call

NAMES = frozenset({"get_weather", "f", "python"})
PARIS = Call("get_weather", '{"city": "Paris"}')
F = Call("f", "{}")
WEATHER = '{"name": "get_weather", "arguments": {"city": "Paris"}}'
LLAMA = '{"name": "get_weather", "parameters": {"city": "Paris"}}'

RECORDED = [
    (Hermes(), f"<tool_call>\n{WEATHER}\n</tool_call>", "", [PARIS]),
    (Hermes(), f"I look.\n\n<tool_call>{WEATHER}</tool_call>\n", "I look.", [PARIS]),
    (Hermes(), f'<tool_call>{WEATHER}</tool_call>\n<tool_call>{{"name": "f"}}</tool_call>', "", [PARIS, F]),
    (Hermes(), f"<tool_call>{WEATHER}", "", [PARIS]),
    (Hermes(), f"<tool_call>[{WEATHER}]</tool_call> Done.", "Done.", [PARIS]),
    (Hermes(), "<tool_call>get_weather(Paris)</tool_call>", "", []),
    (Hermes(), "a <tool_call>{'name': 'f'}</tool_call> b", "a  b", []),
    (Hermes(), '<tool_call>{"name": "f", "arguments": {"x": "</tool_call>"}}</tool_call>', "",
     [Call("f", '{"x": "</tool_call>"}')]),
    (Hermes(), '<tool_call>{"name": "f", "arguments": "{\\"a\\": 1}"}</tool_call>', "",
     [Call("f", '{"a": 1}')]),
    (Hermes(), "1 < 2 and <table> </tool_call>", "1 < 2 and <table> ", []),
    (Hermes(), "no call here <tool_", "no call here <tool_", []),
    (Llama(), LLAMA, "", [PARIS]),
    (Llama(), f"\n\n{LLAMA}; {LLAMA}", "", [PARIS, PARIS]),
    (Llama(), f"<|python_tag|>{LLAMA}", "", [PARIS]),
    (Llama(), '{"type": "function", "function": "get_weather", "name": "f", "parameters": {}}', "", [F]),
    (Llama(), '<|python_tag|>get_weather.call(city="Paris")', "", [PARIS]),
    (Llama(), "<|python_tag|>print(1)", "", [Call("python", '{"code": "print(1)"}')]),
    (Llama(), '{"colour": "red"}', '{"colour": "red"}', []),
    (Llama(), '{"name": "Bob", "age": 3}', '{"name": "Bob", "age": 3}', []),
    (Llama(), '{"name": "Bob", "parameters": {}} no', '{"name": "Bob", "parameters": {}} no', []),
    (Llama(), "{} {", "{} {", []),
    (Llama(), "Here: {", "Here: {", []),
    (Mistral(), f"[TOOL_CALLS] [{WEATHER}]", "", [PARIS]),
    (Mistral(), f'[TOOL_CALLS][{WEATHER}, {{"name": "f", "arguments": {{}}}}]', "", [PARIS, F]),
    (Mistral(), '[TOOL_CALLS]get_weather[ARGS]{"city": "Paris"}[TOOL_CALLS]f[CALL_ID]123456789[ARGS]{}', "",
     [PARIS, F]),
    (Mistral(), f"Wait.[TOOL_CALLS][{WEATHER}]", "Wait.", [PARIS]),
    (Mistral(), "a list: [TOO, [1]", "a list: [TOO, [1]", []),
    (Only("f"), '{"a": 1}\n', "", [Call("f", '{"a": 1}')]),
]  # fmt: skip


def parse(syntax, pieces, *, cut=False, wanted=9):
    parser = Parser(syntax, NAMES, wanted)
    found = [item for piece in pieces for item in parser.feed(piece)] + parser.end(cut=cut)
    content = "".join(item for item in found if isinstance(item, str))
    return content, [item for item in found if isinstance(item, Call)]


@pytest.mark.parametrize(("syntax", "text", "content", "calls"), RECORDED, ids=lambda v: str(v)[:40])
def test_an_answer_is_parted_into_content_and_calls_wherever_it_is_cut(syntax, text, content, calls):
    assert parse(syntax, [text]) == (content, calls)
    assert parse(syntax, list(text)) == (content, calls)
    for place in range(len(text)):
        assert parse(syntax, [text[:place], text[place:]]) == (content, calls), text[:place]


@settings(max_examples=400, deadline=None)
@given(st.data())
def test_pieces_of_any_size_come_to_the_same(data):
    syntax, text, content, calls = data.draw(st.sampled_from(RECORDED))
    places = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=12)))
    pieces = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    assert parse(syntax, pieces) == (content, calls)


@settings(max_examples=400, deadline=None)
@given(st.sampled_from([Hermes(), Llama(), Mistral()]), st.lists(st.sampled_from(
    ["<tool_call>", "</tool_call>", "[TOOL_CALLS]", "<|python_tag|>", '{"name": "', "f", '", "arguments": {',
     "}", "[", "]", "\n", "text", ";", '"', "\\", "[ARGS]", "<", "é"]), max_size=14))  # fmt: skip
def test_whatever_a_model_writes_tags_are_no_content_and_calls_are_whole(syntax, parts):
    text = "".join(parts)
    whole = parse(syntax, [text])
    assert parse(syntax, parts) == whole
    assert parse(syntax, list(text)) == whole
    assert not any(tag in whole[0] for tag in syntax.tags)
    for call in whole[1]:
        assert call.name


@pytest.mark.parametrize(("syntax", "text", "content", "calls"), RECORDED, ids=lambda v: str(v)[:40])
def test_an_answer_that_is_cut_off_leaks_no_call_syntax(syntax, text, content, calls):
    for place in range(len(text)):
        got, found = parse(syntax, [text[:place]], cut=True)
        assert found == calls[: len(found)]
        for mark in ("<t", "tool_call", "[T", "TOOL_CALLS", "python_tag", "get_weather"):
            assert mark not in got or mark in content, text[:place]


def test_one_call_is_enough_where_no_more_are_wanted():
    text = f"<tool_call>{WEATHER}</tool_call>"
    parser = Parser(Hermes(), NAMES, 1)
    assert parser.feed(text) == [PARIS]
    assert parser.done
    assert parser.feed(text) + parser.end(cut=False) == []


def test_where_no_call_may_be_made_its_syntax_is_left_out():
    assert parse(Hermes(), [f"a <tool_call>{WEATHER}</tool_call> b"], wanted=0) == ("a b", [])


def test_deep_json_is_a_broken_call():
    assert parse(Hermes(), ["<tool_call>" + "[" * 100_000]) == ("", [])


@pytest.mark.parametrize(
    ("template", "kind"),
    [
        ("{{ '[TOOL_CALLS]' }}", Mistral),
        ("{{ '<tool_call>' }}", Hermes),
        ("{{ '<|python_tag|>' }}", Llama),
        ('<|start_header_id|> {"name": x, "parameters": y}', Llama),
        ("<tool_call><function=f>", type(None)),
        ('<tool_call><invoke name="f">', type(None)),
        ("<|python_tag|> <function=f>{}</function>", type(None)),
        ("<|im_start|>", type(None)),
    ],
)
def test_the_template_tells_the_syntax(template, kind):
    assert isinstance(syntax_of(template), kind)


def test_arguments_are_json_text_as_clients_expect_it():
    _, calls = parse(Hermes(), ['<tool_call>{"name": "f", "arguments": {"a": "é"}}</tool_call>'])
    assert json.loads(calls[0].arguments) == {"a": "é"}


def test_half_a_character_in_a_call_can_be_sent():
    (call,) = parse(Hermes(), [r'<tool_call>{"name": "f\ud83d", "arguments": {"a": "\udc00"}}</tool_call>'])[
        1
    ]
    assert (call.name, call.arguments) == ("f?", '{"a": "?"}')
