"""What a chat template is found to know, and what it is given."""

import types

import pytest
from llama_cpp import llama_chat_format

from llmsvc.backend.calls import Hermes, Mistral
from llmsvc.backend.llama_cpp_python import templates

TOOL = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
CALL = {"id": "call_0123456789", "type": "function", "function": {"name": "f", "arguments": '{"a": 1}'}}
HISTORY = [
    {"role": "user", "content": "x"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "tool_call_id": "call_0123456789", "content": "y"},
]
SHOWN = "{{ tools }}{% for m in messages %}{{ m.content }}{% for c in m.tool_calls or [] %}CALL{% endfor %}"
SHOWN += "{{ m.tool_call_id }};{% endfor %}"
AS_OBJECT = "<tool_call>" + SHOWN.replace("CALL", "{{ c.function.arguments | tojson }}")
AS_TEXT = "<tool_call>" + SHOWN.replace("CALL", "{{ c.function.arguments }}")
ITEMS = "<tool_call>" + SHOWN.replace(
    "CALL", '{% for k, v in c.function.arguments.items() %}"{{ k }}"{% endfor %}'
)
WITH_IDS = "[TOOL_CALLS]" + SHOWN.replace("CALL", "{{ c.function.arguments | tojson }}{{ c.id }}")
PLAIN = "{% for m in messages %}{{ m.content }}{% endfor %}"


def template(default, tool_use=None, chat_format="chat_template.default"):
    found = {"chat_template.default": default} | ({"chat_template.tool_use": tool_use} if tool_use else {})
    handlers = {
        name: llama_chat_format.Jinja2ChatFormatter(
            template=text, eos_token="</s>", bos_token=""
        ).to_chat_handler()
        for name, text in found.items()
    }
    metadata = {"tokenizer.chat_template": default} | (
        {"tokenizer.chat_template.tool_use": tool_use} if tool_use else {}
    )
    llama = types.SimpleNamespace(_chat_handlers=handlers, chat_format=chat_format, metadata=metadata)
    return templates.Template(llama, {})


def as_it_is(value):
    """Stands for Vocabulary.protect."""
    return value


@pytest.mark.parametrize(
    ("text", "arguments"), [(AS_OBJECT, '{"a": 1}'), (AS_TEXT, '{"a": 1}'), (ITEMS, '"a"')]
)
def test_arguments_in_the_history_come_as_the_template_wants_them(text, arguments):
    made = template(text)
    assert isinstance(made.syntax, Hermes)
    assert arguments in made.render(HISTORY, [TOOL], {}, as_it_is).text.replace("'", '"')


def test_ids_of_mistrals_calls_have_nine_letters_and_go_together():
    made = template(WITH_IDS)
    assert isinstance(made.syntax, Mistral) and made.short_ids
    first, second = made.render(HISTORY, [TOOL], {}, as_it_is).text.split(";")[1:3]
    assert first.removeprefix('{"a": 1}')[:9] == second[1:]
    assert len(second[1:]) == 9


def test_a_template_that_does_not_show_tools_knows_none():
    assert template("<tool_call>" + PLAIN).syntax is None
    assert template(PLAIN + "{{ tools }}").syntax is None


def test_the_template_for_tools_is_taken_where_there_is_one():
    made = template(PLAIN, AS_OBJECT)
    assert isinstance(made.syntax, Hermes)
    hello = [{"role": "user", "content": "x"}]
    assert made.render(hello, [], {}, as_it_is).text == "x"
    assert "'name': 'f'" in made.render(hello, [TOOL], {}, as_it_is).text
    assert PLAIN in made.source and AS_OBJECT in made.source


def test_the_texts_that_end_an_answer_come_with_the_prompt():
    prompt = template(PLAIN).render([{"role": "user", "content": "x"}], [], {}, as_it_is)
    assert (prompt.text, prompt.stops, prompt.add_bos) == ("x", ["</s>"], False)


THINKS = "{% for m in messages %}[{% if loop.last and m.role == 'assistant' %}<think></think>{% endif %}"
THINKS += "{{ m.content | trim }}]{% endfor %}{% if add_generation_prompt %}[<think>{% endif %}"
TURNS = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "One, "}]


def test_an_answer_that_has_begun_is_where_the_template_puts_one():
    assert template(THINKS).render(TURNS, [], {}, as_it_is).text == "[x][<think></think>One, "
    assert template(THINKS).render(TURNS[:1], [], {}, as_it_is).text == "[x][<think>"
    with pytest.raises(ValueError, match="cannot go on with an answer"):
        template("{{ messages[0].content }}").render(TURNS, [], {}, as_it_is)
