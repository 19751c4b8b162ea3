"""What of a conversation is left out so that it fits: the oldest, whole, and never what must stay."""

from __future__ import annotations

import itertools
from typing import Any

import pytest

from llmsvc.backend import bodies
from llmsvc.backend.dialects import truncation
from llmsvc.backend.dialects.responses import Responses, conversation
from llmsvc.backend.dialects.truncation import Conversation
from llmsvc.backend.problem import ApiError, bad, too_long

N_CTX = 400
MODEL = bodies.Model(name="m", file="m.gguf", n_vocab=1000)


def said(role: str, text: str) -> dict[str, Any]:
    return {"role": role, "content": text}


def call(name: str) -> dict[str, Any]:
    return {"type": "function_call", "name": "f", "call_id": name, "arguments": "{}"}


def result(name: str, text: str = "done") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": name, "output": text}


def of(*items: dict[str, Any], **fields: Any) -> Conversation:
    return Conversation(conversation.pieces({"input": list(items), **fields}))


def shown(messages: list[dict[str, Any]]) -> list[str]:
    """Each message in a few words: its side, its text, and its calls or whose result it is."""
    return [
        " ".join(
            [
                message["role"],
                *([message["content"]] if message["content"] else []),
                *(f"calls {one['id']}" for one in message.get("tool_calls", [])),
                *([f"of {message['tool_call_id']}"] if "tool_call_id" in message else []),
            ]
        )
        for message in messages
    ]


def all_ways(made: Conversation) -> list[list[str]]:
    return [shown(made.without(count)) for count in range(len(made) + 1)]


def test_whole_turns_go_the_oldest_first_and_the_last_one_stays():
    made = of(
        said("user", "1"), said("assistant", "one"), said("user", "2"), said("assistant", "two"),
        said("user", "3"), instructions="Be kind.",
    )  # fmt: skip
    assert all_ways(made) == [
        ["system Be kind.", "user 1", "assistant one", "user 2", "assistant two", "user 3"],
        ["system Be kind.", "user 2", "assistant two", "user 3"],
        ["system Be kind.", "user 3"],
    ]


def test_a_call_goes_with_its_result_and_the_last_step_of_an_agent_stays():
    made = of(
        said("user", "Go"), call("a"), call("b"), result("a"), result("b"),
        said("assistant", "So."), call("c"), result("c"), call("d"), result("d"),
    )  # fmt: skip
    everything = [
        "user Go", "assistant calls a calls b", "tool done of a", "tool done of b",
        "assistant So. calls c", "tool done of c", "assistant calls d", "tool done of d",
    ]  # fmt: skip
    assert all_ways(made) == [everything, [everything[0], *everything[4:]], [everything[0], *everything[6:]]]


def test_a_result_that_stands_apart_goes_with_its_call():
    made = of(said("user", "1"), call("a"), said("user", "2"), result("a"), said("assistant", "Well."))
    assert all_ways(made)[-1] == ["user 2", "assistant Well."]


def test_what_the_user_said_in_pieces_goes_piece_by_piece():
    made = of(said("user", "1"), said("user", "2"), said("user", "3"))
    assert all_ways(made) == [["user 1\n2\n3"], ["user 2\n3"], ["user 3"]]


def test_instructions_stay_wherever_they_stand():
    made = of(
        said("developer", "A"), said("user", "1"), said("assistant", "one"), said("developer", "B"),
        said("user", "2"), said("assistant", "two"), said("user", "3"),
    )  # fmt: skip
    reminder = "<system-reminder>\nB\n</system-reminder>"
    assert all_ways(made) == [
        ["system A", "user 1", "assistant one", f"user {reminder}\n2", "assistant two", "user 3"],
        # behind the others, and before what the user says now, it is one of them
        ["system A\nB", "user 2", "assistant two", "user 3"],
        ["system A\nB", "user 3"],
    ]


def test_what_cannot_be_left_out_is_not():
    assert len(of(said("user", "1"))) == 0
    assert len(of(said("system", "A"), said("user", "1"))) == 0
    assert len(of(said("user", "1"), said("assistant", "one"))) == 0
    assert len(of(said("assistant", "one"))) == 0
    assert len(of(result("a"), said("user", "1"))) == 1


def test_whatever_is_left_out_what_is_left_is_a_conversation():
    """Of every order of five pieces: what must stay does, and nobody changes places."""
    for sides in itertools.product(["user", "assistant", "tool", "system"], repeat=5):
        pieces = [
            {"role": side, "content": f"{side}{place}"} | ({"tool_call_id": "x"} if side == "tool" else {})
            for place, side in enumerate(sides)
        ]
        made = Conversation(pieces)
        texts = [piece["content"] for piece in pieces]
        stays = {text for text in texts if text.startswith("system")}
        stays |= set([text for text in texts if text.startswith("user")][-1:])
        for count in range(len(made) + 1):
            left = made.without(count)
            joined = "\n".join(message["content"] for message in left)
            kept = [text for text in texts if text in joined]
            assert left and stays <= set(kept), sides
            assert [joined.index(text) for text in kept] == sorted(joined.index(text) for text in kept)
            # and it is one that most templates take
            roles = [message["role"] for message in left if message["role"] != "tool"]
            assert "tool" in sides or all(one != other for one, other in itertools.pairwise(roles)), sides


def test_nothing_of_it_is_changed_by_the_making():
    made = of(said("user", "1"), call("a"), call("b"), result("a"), said("user", "2"))
    assert made.without(0) == made.without(0)


# --- how much is left out ---


def cost(request: bodies.Request) -> int:
    """A token for each character."""
    return sum(len(message["content"]) for message in request.messages or [])


async def fit(body: dict[str, Any], tried: list[int] | None = None, *, strict: bool = False) -> Any:
    """What fitted() makes of a body, with an engine that counts characters.

    :param strict: whether it refuses what is too long as it plans, as one of ours does
    """
    request = Responses().request({"truncation": "auto", **body}, MODEL)

    async def plan(shorter: bodies.Request) -> int:
        if tried is not None:
            tried.append(cost(shorter))
        if strict and cost(shorter) >= N_CTX:
            raise too_long(cost(shorter), N_CTX, None)
        return cost(shorter)

    async def count(task: int) -> int:
        return task

    made, task = await truncation.fitted(request, N_CTX, plan, count)
    assert task == cost(made)
    return made


def talk(turns: int, size: int = 20) -> list[dict[str, Any]]:
    return [
        *(said(side, f"{turn}".rjust(size)) for turn in range(turns) for side in ("user", "assistant")),
        said("user", "now?"),
    ]


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("turns", [0, 1, 7, 8, 9, 10, 40, 500])
async def test_no_more_is_left_out_than_must_be(turns, strict):
    tried: list[int] = []
    made = await fit({"input": talk(turns), "instructions": "Be kind."}, tried, strict=strict)
    room = N_CTX - N_CTX // 4
    # 40 for a turn of both sides
    assert len(made.messages) == 2 + 2 * min(turns, (room - len("Be kind.now?")) // 40)
    assert (made.messages[0]["content"], made.messages[-1]["content"]) == ("Be kind.", "now?")
    assert len(tried) <= 12


async def test_what_the_answer_may_take_is_kept_free():
    for most, left in ((20, 9), (50, 8), (100, 7), (5000, 7), (None, 7)):
        body = {"input": talk(40), **({"max_output_tokens": most} if most else {})}
        assert len((await fit(body)).messages) == 2 * left + 1, most


async def test_what_must_stay_may_take_the_place_of_the_answer_but_not_more():
    made = await fit({"input": [*talk(3), said("user", "x" * 340)]})
    assert [len(message["content"]) for message in made.messages] == [340]
    for strict in (False, True):
        with pytest.raises(ApiError) as raised:
            await fit({"input": [*talk(3), said("user", "x" * 420)]}, strict=strict)
        assert (raised.value.code, raised.value.too_long) == ("context_length_exceeded", (420, N_CTX))


async def test_more_messages_than_a_chat_may_have_are_left_out_before_all():
    made = await fit({"input": talk(5000, 4)})
    assert made.messages[-1]["content"] == "now?"
    assert cost(made) <= N_CTX
    with pytest.raises(ApiError, match="at most 4096"):
        Responses().request({"input": talk(5000)}, MODEL)


async def test_what_else_is_wrong_is_said():
    request = Responses().request({"input": talk(3), "truncation": "auto"}, MODEL)

    async def refusing(_: bodies.Request) -> int:
        raise bad("the chat template of this model does not take these messages", "messages")

    with pytest.raises(ApiError, match="does not take"):
        await truncation.fitted(request, N_CTX, refusing, refusing)


def test_it_is_for_those_who_ask_for_it():
    for wanted in ("disabled", None):
        body = {"input": "Hi", **({"truncation": wanted} if wanted else {})}
        assert Responses().request(body, MODEL).conversation is None
