"""The turns of a conversation that comes in pieces."""

from typing import Any

from llmsvc.backend.dialects.turns import Turns


def turns(*given: dict[str, Any]) -> list[dict[str, Any]]:
    made = Turns()
    for message in given:
        made.add(message)
    return made.messages()


def test_pieces_of_one_side_are_one_turn() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    assert turns(
        {"role": "assistant", "content": "", "reasoning_content": "hm"},
        {"role": "assistant", "content": "one"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "assistant", "content": "two", "tool_calls": [{**call, "id": "b"}]},
    ) == [
        {
            "role": "assistant",
            "content": "one\ntwo",
            "reasoning_content": "hm",
            "tool_calls": [call, {**call, "id": "b"}],
        }
    ]


def test_each_result_of_a_tool_is_a_turn() -> None:
    results = [{"role": "tool", "tool_call_id": name, "content": name} for name in "ab"]
    assert turns(*results) == results


def test_the_system_speaks_first_or_in_the_users_turn() -> None:
    found = turns(
        {"role": "system", "content": "be"},
        {"role": "system", "content": "kind"},
        {"role": "user", "content": "hello"},
        {"role": "system", "content": "hurry"},
    )
    assert found == [
        {"role": "system", "content": "be\nkind"},
        {"role": "user", "content": "hello\n<system-reminder>\nhurry\n</system-reminder>"},
    ]


def test_the_messages_that_were_given_stay_as_they_are() -> None:
    first = {"role": "user", "content": "a"}
    turns(first, {"role": "user", "content": "b"})
    assert first == {"role": "user", "content": "a"}
