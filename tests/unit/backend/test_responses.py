"""What a Responses request comes to as a chat, and how errors name their fields."""

from __future__ import annotations

import pytest

from llmsvc.backend.dialects.responses import conversation, functions, objects, request
from llmsvc.backend.dialects.truncation import Conversation
from llmsvc.backend.problem import ApiError, bad


def messages(*items, **fields):
    return of({"input": list(items), **fields})


def of(body):
    return Conversation(conversation.pieces(body)).without(0)


def user(text):
    return {"role": "user", "content": text}


def called(name, call_id, arguments="{}"):
    return {"type": "function_call", "name": name, "call_id": call_id, "arguments": arguments}


def result(call_id, output):
    return {"type": "function_call_output", "call_id": call_id, "output": output}


def test_parallel_calls_and_a_thought_are_one_turn():
    thought = {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]}
    made = messages(
        user("Both?"), thought, called("a", "1"), called("b", "2"), result("1", "x"), result("2", "y")
    )
    assert [message["role"] for message in made] == ["user", "assistant", "tool", "tool"]
    assert made[1]["reasoning_content"] == "Hm."
    assert [(call["id"], call["function"]["name"]) for call in made[1]["tool_calls"]] == [
        ("1", "a"),
        ("2", "b"),
    ]
    assert [(message["tool_call_id"], message["content"]) for message in made[2:]] == [("1", "x"), ("2", "y")]


def test_a_thought_belongs_to_what_follows_it_and_to_nothing_else():
    thought = {"type": "reasoning", "summary": [{"type": "summary_text", "text": "In short."}]}
    made = messages(thought, user("Hi"), {"role": "assistant", "content": "Hello"})
    assert [message.get("reasoning_content") for message in made] == [None, None]
    made = messages(user("Hi"), thought, {"role": "assistant", "content": "Hello"})
    assert made[-1]["reasoning_content"] == "In short."
    secret = {"type": "reasoning", "summary": [], "encrypted_content": "x"}
    assert "reasoning_content" not in messages(user("Hi"), secret, {"role": "assistant", "content": "a"})[-1]


def test_turns_of_one_side_are_one_and_instructions_only_at_the_beginning():
    made = messages(
        {"role": "developer", "content": "B"}, user("1"), user("2"), {"role": "developer", "content": "C"},
        user("3"), instructions="A",
    )  # fmt: skip
    assert made == [
        {"role": "system", "content": "A\nB"},
        user("1\n2\n<system-reminder>\nC\n</system-reminder>\n3"),
    ]


SPACE = {
    "type": "namespace",
    "name": "crm",
    "description": "Customers",
    "tools": [{"type": "function", "name": "find", "parameters": {"type": "object"}}],
}


def test_functions_of_a_namespace_have_longer_names_in_the_chat():
    plain = {"type": "function", "name": "find"}
    made = functions.chat({"tools": [plain, SPACE]})
    assert [tool["function"]["name"] for tool in made["tools"]] == ["find", "crm__find"]
    assert functions.apart({"tools": [plain, SPACE]}) == {"crm__find": ("crm", "find")}
    one = {"type": "function", "name": "find", "namespace": "crm"}
    made = functions.chat({"tools": [plain, SPACE], "tool_choice": one})
    assert made["tool_choice"] == {"type": "function", "function": {"name": "crm__find"}}
    some = {"type": "allowed_tools", "mode": "required", "tools": [one]}
    made = functions.chat({"tools": [plain, SPACE], "tool_choice": some})
    assert [tool["function"]["name"] for tool in made["tools"]] == ["crm__find"]
    (call, _) = messages({**called("find", "1"), "namespace": "crm"}, result("1", "x"))
    assert call["tool_calls"][0]["function"]["name"] == "crm__find"


@pytest.mark.parametrize(
    "tool, place",
    [
        ({**SPACE, "name": None}, "tools[0].name"),
        ({**SPACE, "tools": {}}, "tools[0].tools"),
        ({**SPACE, "tools": [7]}, "tools[0].tools[0]"),
        ({**SPACE, "tools": [SPACE]}, "tools[0].tools[0].type"),
        ({**SPACE, "tools": [{"type": "custom", "name": "x"}]}, "tools[0].tools[0].type"),
        ({**SPACE, "tools": [{"type": "function", "name": 7}]}, "tools[0].tools[0].name"),
    ],
)
def test_namespaces_that_are_none(tool, place):
    with pytest.raises(ApiError) as raised:
        functions.chat({"tools": [tool]})
    assert raised.value.param == place


def test_instructions_alone_are_enough():
    assert of({"instructions": "Say hi"}) == [{"role": "system", "content": "Say hi"}]


def test_fields_have_the_chats_names():
    schema = {"type": "object"}
    made = request.chat(
        {
            "input": "x", "max_output_tokens": 5, "temperature": 0, "seed": 1, "reasoning": {"effort": "low"},
            "text": {"format": {"type": "json_schema", "name": "n", "schema": schema}},
            "store": True, "unknown": 1,
        }
    )  # fmt: skip
    assert made == {
        "max_tokens": 5, "temperature": 0, "seed": 1, "reasoning_effort": "low",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema}},
    }  # fmt: skip


@pytest.mark.parametrize(
    "chats, ours",
    [
        ("messages", "input"),
        ("messages[3].content", "input"),
        ("tools[2].function.parameters", "tools[2].parameters"),
        ("response_format.json_schema.schema", "text.format.schema"),
        ("response_format", "text.format"),
        ("max_tokens", "max_output_tokens"),
        ("temperature", "temperature"),
        (None, None),
    ],
)
def test_errors_name_the_fields_of_this_api(chats, ours):
    problem = ApiError(429, f"{chats} must be less", param=chats, code="c")
    problem.usage = {"prompt_tokens": 1}
    told = objects.named(problem)
    assert (told.param, told.message, told.status, told.code) == (ours, f"{ours} must be less", 429, "c")
    assert told.usage == {"prompt_tokens": 1}


def test_an_error_keeps_its_kind():
    assert objects.named(bad("x", "messages")).body()["error"]["type"] == "invalid_request_error"
