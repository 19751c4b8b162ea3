"""Anthropic's requests become chats, and chunks of chats Anthropic's events."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmsvc.backend import bodies, problem
from llmsvc.backend.answers import encode
from llmsvc.backend.bodies import Model
from llmsvc.backend.dialects import routes
from llmsvc.backend.dialects.anthropic import request
from llmsvc.backend.dialects.anthropic.answer import Answer
from llmsvc.backend.jobs import Job
from llmsvc.backend.problem import ApiError
from llmsvc.backend.replies import Call, Reply

MODEL = Model("m", "m.gguf", n_vocab=9, can_call=True)
DIALECT = routes.ROUTES["/v1/messages"]
USE = {"type": "tool_use", "id": "a", "name": "f", "input": {"x": "ü"}}
CALL = {"id": "a", "type": "function", "function": {"name": "f", "arguments": '{"x": "ü"}'}}
TOOL = {"name": "f", "description": "d", "input_schema": {"type": "object"}}


def text(value: str) -> dict[str, Any]:
    return {"type": "text", "text": value}


def result(content: object, identity: str = "a", **more: object) -> dict[str, Any]:
    return {"type": "tool_result", "tool_use_id": identity, "content": content, **more}


@pytest.mark.parametrize(
    ("messages", "chat"),
    [
        ([("user", "x")], [{"role": "user", "content": "x"}]),
        ([("user", [text("x"), text("y")])], [{"role": "user", "content": "x\ny"}]),
        # turns of one side in a row are one
        ([("user", "x"), ("user", "y")], [{"role": "user", "content": "x\ny"}]),
        (
            [("assistant", "x"), ("assistant", [USE]), ("assistant", [USE])],
            [{"role": "assistant", "content": "x", "tool_calls": [CALL, CALL]}],
        ),
        (
            [("assistant", [text("x"), USE])],
            [{"role": "assistant", "content": "x", "tool_calls": [CALL]}],
        ),
        # results come right behind their calls, each as a message
        (
            [("user", [text("x"), result("r"), result([text("s"), text("t")], "b"), text("y")])],
            [
                {"role": "tool", "tool_call_id": "a", "content": "r"},
                {"role": "tool", "tool_call_id": "b", "content": "s\nt"},
                {"role": "user", "content": "x\ny"},
            ],
        ),
        ([("user", [result(None)])], [{"role": "tool", "tool_call_id": "a", "content": ""}]),
        (
            [("user", [result("r", is_error=True)])],
            [{"role": "tool", "tool_call_id": "a", "content": "Error: r"}],
        ),
        (
            [
                (
                    "assistant",
                    [{"type": "thinking", "thinking": "h"}, {"type": "redacted_thinking"}, text("x")],
                )
            ],
            [{"role": "assistant", "content": "x", "reasoning_content": "h"}],
        ),
        ([("user", [])], [{"role": "user", "content": ""}]),
        # the system speaks first, or in the user's turn
        (
            [("system", "s"), ("system", [text("t")]), ("user", "x")],
            [{"role": "system", "content": "s\nt"}, {"role": "user", "content": "x"}],
        ),
        (
            [("user", "x"), ("system", "s"), ("assistant", "y")],
            [
                {"role": "user", "content": "x\n<system-reminder>\ns\n</system-reminder>"},
                {"role": "assistant", "content": "y"},
            ],
        ),
    ],
)
def test_messages(messages: Any, chat: Any) -> None:
    given_ = [{"role": role, "content": content} for role, content in messages]
    assert request.chat({"messages": given_}, thinks=False)["messages"] == chat


@pytest.mark.parametrize(
    ("choice", "made"),
    [
        ({"type": "auto"}, {"tool_choice": "auto"}),
        ({"type": "any"}, {"tool_choice": "required"}),
        ({"type": "none"}, {"tool_choice": "none"}),
        (
            {"type": "tool", "name": "f"},
            {"tool_choice": {"type": "function", "function": {"name": "f"}}},
        ),
        (
            {"type": "any", "disable_parallel_tool_use": True},
            {"tool_choice": "required", "parallel_tool_calls": False},
        ),
    ],
)
def test_tools(choice: Any, made: Any) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], "tools": [TOOL], "tool_choice": choice}
    out = request.chat(body, thinks=False)
    function = {"name": "f", "description": "d", "parameters": {"type": "object"}}
    assert out["tools"] == [{"type": "function", "function": function}]
    assert {key: out[key] for key in out if key not in ("tools", "messages")} == made


ON = {"chat_template_kwargs": {"enable_thinking": True}, "thinking_budget_tokens": 2000}
OFF = {"chat_template_kwargs": {"enable_thinking": False}}


@pytest.mark.parametrize(
    ("thinks", "given_", "made"),
    [
        (True, {}, {}),
        (True, {"thinking": {"type": "adaptive"}}, {}),
        (False, {"thinking": {"type": "adaptive", "display": "omitted"}}, {}),
        (True, {"thinking": {"type": "enabled", "budget_tokens": 2000}}, ON),
        # which the chat refuses
        (False, {"thinking": {"type": "enabled", "budget_tokens": 2000}}, ON),
        (True, {"thinking": {"type": "disabled"}}, {**OFF, "thinking_budget_tokens": 0}),
        (False, {"thinking": {"type": "disabled"}}, OFF),
        (False, {"output_config": {"effort": "low"}}, {"reasoning_effort": "low"}),
        (True, {"output_config": {"effort": "max"}}, {"reasoning_effort": "xhigh"}),
        (True, {"output_config": {"effort": None}}, {}),
    ],
)
def test_thinking(thinks: bool, given_: Any, made: Any) -> None:
    body = {"messages": [{"role": "user", "content": "x"}], **given_}
    out = request.chat(body, thinks=thinks)
    del out["messages"]
    assert out == made


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)
KINDS = ("text", "tool_use", "tool_result", "thinking", "image")
BLOCK = st.fixed_dictionaries(
    {"type": st.sampled_from(KINDS) | JSON},
    optional=dict.fromkeys(("text", "id", "name", "input", "tool_use_id", "content", "is_error"), JSON),
)
CONTENT = st.text() | st.lists(BLOCK, max_size=3) | JSON
TURN = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system"]) | JSON, "content": CONTENT}
)
BODY = st.fixed_dictionaries(
    {"messages": st.lists(TURN, max_size=4) | JSON, "max_tokens": st.just(5) | JSON},
    optional={
        "system": CONTENT,
        "tools": st.lists(st.just(TOOL) | JSON, max_size=2) | JSON,
        "tool_choice": st.fixed_dictionaries({"type": st.sampled_from(["auto", "any", "tool"])}) | JSON,
        "stop_sequences": st.lists(st.text(min_size=1), max_size=2) | JSON,
        "thinking": JSON
        | st.fixed_dictionaries({"type": st.sampled_from(["enabled", "adaptive"]), "budget_tokens": JSON}),
        "metadata": JSON,
        "output_config": st.fixed_dictionaries({}, optional={"format": JSON, "effort": JSON}) | JSON,
        "stream": JSON,
    },
)  # fmt: skip


@given(BODY)
def test_every_body_is_a_chat_or_one_clear_error(body: dict[str, Any]) -> None:
    body = bodies.parse(json.dumps(body).encode())
    try:
        made = DIALECT.request(body, MODEL)
    except ApiError as error:
        told = DIALECT.error(error, "id")
        assert error.status == 400
        assert told["error"]["type"] == "invalid_request_error"
        assert "[" not in told["error"]["message"].partition(":")[0]
    else:
        assert made.messages
        assert made.tells_stop


TEXT = st.text(min_size=1, max_size=5)
PIECES = st.lists(
    st.tuples(st.sampled_from(["text", "thought"]), TEXT)
    | st.tuples(st.just("call"), st.lists(TEXT, min_size=1, max_size=3)),
    max_size=8,
)


def reply() -> Reply:
    return Reply(chat=True, model="m", with_logprobs=False, short_ids=False, offset=0)


def chunks(pieces: Any, finish: str) -> list[dict[str, Any]]:
    """The chunks of a chat."""
    made, calls = reply(), 0
    out = made.begin()
    for kind, what in pieces:
        if kind == "text":
            out.append(made.content(what, []))
        elif kind == "thought":
            out.append(made.reasoning(what))
        else:
            out.append(made.call(Call("f", json.dumps({"x": what}), f"id{calls}")))
            calls += 1
    return [*out, made.end(finish)]


def words_of(
    answer: Answer, made: list[dict[str, Any]], failure: ApiError | None = None
) -> list[dict[str, Any]]:
    sent = b"".join(answer.events(b"data: " + encode(chunk)) for chunk in made)
    sent += b"".join(answer.end(failure))
    events = []
    for event in sent.decode().split("\n\n")[:-1]:
        kind, data = event.split("\ndata: ")
        events.append(json.loads(data))
        assert kind == f"event: {events[-1]['type']}"
    return events


def joined(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The blocks of a stream, whose nesting is checked."""
    blocks: list[dict[str, Any]] = []
    inside = False
    for event in events:
        if event["type"] == "content_block_start":
            assert not inside and event["index"] == len(blocks)
            blocks.append({**event["content_block"], "json": ""})
            inside = True
        elif event["type"] == "content_block_delta":
            assert inside and event["index"] == len(blocks) - 1
            delta, block = event["delta"], blocks[-1]
            if delta["type"] == "input_json_delta":
                block["json"] += delta["partial_json"]
            else:
                key = delta["type"].removesuffix("_delta")
                block[key] += delta[key]
        elif event["type"] == "content_block_stop":
            assert inside and event["index"] == len(blocks) - 1
            inside = False
    assert not inside
    for block in blocks:
        arguments = block.pop("json")
        if block["type"] == "tool_use":
            block["input"] = json.loads(arguments)
    return blocks


def job() -> Job:
    made = Job("id")
    made.prompt_tokens, made.completion_tokens = 3, 2
    made.reply = reply()
    return made


@given(PIECES)
def test_a_stream_comes_to_the_pieces_that_the_engine_made(pieces: Any) -> None:
    events = words_of(Answer(job()), chunks(pieces, "stop"))
    assert [event["type"] for event in events[:1]] == ["message_start"]
    assert [event["type"] for event in events[-2:]] == ["message_delta", "message_stop"]
    wanted: list[dict[str, Any]] = []
    calls = 0
    for kind, what in pieces:
        if kind == "call":
            wanted.append({"type": "tool_use", "id": f"id{calls}", "name": "f", "input": {"x": what}})
            calls += 1
            continue
        key = "text" if kind == "text" else "thinking"
        if not wanted or wanted[-1]["type"] != key:
            more = {} if kind == "text" else {"signature": ""}
            wanted.append({"type": key, key: "", **more})
        wanted[-1][key] += what
    assert joined(events) == wanted


@given(st.text(max_size=5), st.text(max_size=5), st.integers(0, 2))
def test_an_answer_in_one_piece_is_what_its_stream_comes_to(said: str, thought: str, calls: int) -> None:
    made = [Call("f", json.dumps({"x": [str(number)]}), f"id{number}") for number in range(calls)]
    finish = "tool_calls" if calls else "stop"
    whole = Answer(job()).whole(reply().whole(said, made, [], finish, thought))
    pieces = [(kind, what) for kind, what in (("thought", thought), ("text", said)) if what]
    pieces += [("call", [str(number)]) for number in range(calls)]  # type: ignore[misc]
    start, *events = words_of(Answer(job()), chunks(pieces, finish))
    assert joined(events) == whole["content"]
    assert {**start["message"], **events[-2]["delta"], "usage": events[-2]["usage"]} == {
        **whole,
        "id": start["message"]["id"],
        "content": [],
    }
    assert list(whole)[-1] == "usage"


def test_calls_whose_arguments_are_no_object_have_an_empty_one() -> None:
    for arguments in ("[1]", "{", "x", "[" * 100_000):
        whole = Answer(job()).whole(reply().whole("", [Call("f", arguments)], [], "tool_calls"))
        assert whole["content"][0]["input"] == {}


@pytest.mark.parametrize(
    ("finish", "stopped_by", "reason"),
    [
        ("stop", None, "end_turn"),
        ("stop", "END", "stop_sequence"),
        ("length", None, "max_tokens"),
        ("tool_calls", None, "tool_use"),
    ],
)
def test_why_it_stopped(finish: str, stopped_by: str | None, reason: str) -> None:
    stopped = job()
    stopped.stopped_by = stopped_by
    delta = words_of(Answer(stopped), chunks([("text", "x")], finish))[-2]["delta"]
    assert delta == {"stop_reason": reason, "stop_sequence": stopped_by}


def test_what_fails_in_a_stream_is_its_last_event_with_what_it_took() -> None:
    failed = words_of(
        Answer(job()), chunks([("text", "x")], "stop"), ApiError(503, "no", code="model_stopping")
    )
    assert failed[-1]["error"]["details"] == {"error_code": "model_stopping"}
    assert failed[-1]["usage"]["input_tokens"] == 3
    assert failed[-1]["usage"]["output_tokens"] == 2
    assert failed[-1]["request_id"] == "id"


def test_errors_name_the_fields_of_anthropics_api() -> None:
    def said(param: str | None, message: str) -> str:
        return str(DIALECT.error(problem.bad(message, param), "id")["error"]["message"])

    assert said("tools[3].function.parameters", "no") == "tools.3.input_schema: no"
    assert said("tools[3].function.name", "no") == "tools.3.name: no"
    assert said("stop", "stop must be short") == "stop_sequences: must be short"
    assert said(None, "no") == "no"
    too_long = DIALECT.error(problem.too_long(9, 5, "messages"), "id")["error"]
    assert too_long["message"] == "prompt is too long: 9 tokens > 5 maximum"
