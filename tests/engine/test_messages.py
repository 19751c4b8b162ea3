"""Anthropic's Messages API on both engines, with Anthropic's own SDK on the backend's socket."""

from __future__ import annotations

import collections
import copy
import json
import threading
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx2
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tests.engine.conftest import Backend
from tests.engine.gguf_copy import with_template
from tests.engine.test_cancel import begin, wait_busy
from tests.engine.test_thinking import ANSWER, THOUGHT
from tests.engine.test_thinking import TEMPLATE as SWITCHED
from tests.engine.test_tools import MESSAGES as TURN
from tests.engine.test_tools import SHOW, TEMPLATES, TURNS

MESSAGES, COUNT = "/v1/messages", "/v1/messages/count_tokens"
HELLO: Any = [{"role": "user", "content": "Say hello"}]
SEA = "Write a very long story about the sea."
"""Of more than a thousand tokens."""
BODY: dict[str, Any] = {"model": "current", "max_tokens": 12, "temperature": 0, "messages": HELLO}
PAINT: Any = {
    "name": "paint",
    "description": "Paints",
    "input_schema": {
        "type": "object",
        "properties": {"colour": {"type": "string", "enum": ["red", "blue"]}},
        "required": ["colour"],
    },
}
WEATHER: Any = {
    "name": "get_weather",
    "description": "The weather",
    "input_schema": {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    },
}
THINKING = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n"
    "{% if m.reasoning_content %}<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}"
    "{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}{% for _ in range(3) %}"
    "<|im_start|>assistant\n<think>\nSay hello.\n</think>\n\nHello!<|im_end|>\n"
    "<|im_start|>user\nSay hello<|im_end|>\n{% endfor %}<|im_start|>assistant\n<think>\n{% endif %}"
)


def sdk(backend: Backend) -> anthropic.Anthropic:
    http = httpx2.Client(transport=httpx2.HTTPTransport(uds=str(backend.socket), verify=False), verify=False)
    return anthropic.Anthropic(
        base_url="http://backend", api_key="none", max_retries=0, timeout=60, http_client=http
    )


@pytest.fixture(scope="module")
def client(smollm2: Backend) -> Iterator[anthropic.Anthropic]:
    with sdk(smollm2) as client:
        yield client


@pytest.fixture(scope="module")
def caller(start_shared: Any, models: Any, tmp_path_factory: Any) -> Iterator[anthropic.Anthropic]:
    """A model that was taught to call functions."""
    call, history = TEMPLATES["hermes"]
    template = SHOW + TURNS.replace("CALL", call) + TURN.replace("HISTORY", history)
    file = with_template(models / "smollm2.gguf", tmp_path_factory.mktemp("gguf") / "x.gguf", template)
    backend = start_shared(f"MODEL={file}\nN_THREADS=1\nN_CTX=2048\n")
    backend.wait_for("READY=1")
    with sdk(backend) as client:
        yield client
    assert backend.output == ""


def asked(fields: dict[str, Any]) -> dict[str, Any]:
    """Arguments of the SDK's, which no longer knows some fields of the API."""
    body = {**BODY, **fields}
    extra = {key: body.pop(key) for key in ("temperature", "top_k", "top_p") if key in body}
    return {**body, "extra_body": extra}


def create(client: anthropic.Anthropic, **fields: Any) -> Any:
    return client.messages.create(**asked(fields))


def streamed(client: anthropic.Anthropic, **fields: Any) -> tuple[list[Any], Any]:
    """The events of a stream, and what the SDK makes of them."""
    with client.messages.stream(**asked(fields)) as stream:
        events = list(stream)
        return events, stream.get_final_message()


def count(client: anthropic.Anthropic, **fields: Any) -> int:
    return client.messages.count_tokens(**{"model": "current", "messages": HELLO, **fields}).input_tokens


def check_same(whole: Any, made: Any) -> None:
    """The stream came to the same as the answer in one piece."""
    ours, theirs = (message.to_dict(exclude_none=True) for message in (whole, made))
    for message in (ours, theirs):
        del message["id"]
        for block in message["content"]:
            block.pop("id", None)
    assert ours == theirs


def test_a_message_whole_and_streamed(client: anthropic.Anthropic, smollm2: Backend) -> None:
    whole = create(client)
    assert (whole.role, whole.type, whole.model) == ("assistant", "message", "smollm2")
    assert (whole.stop_reason, whole.stop_sequence) == ("max_tokens", None)
    assert whole.usage.output_tokens == 12
    assert whole.id.startswith("msg_")
    (block,) = whole.content
    assert block.type == "text"
    chat = smollm2.chat("Say hello", max_tokens=12, temperature=0).json()
    assert block.text == chat["choices"][0]["message"]["content"]
    assert whole.usage.input_tokens == chat["usage"]["prompt_tokens"] == count(client)
    events, made = streamed(client)
    check_same(whole, made)
    kinds = [event.type for event in events]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    assert events[0].message.usage.input_tokens == whole.usage.input_tokens
    assert kinds.count("content_block_delta") > 5


def test_what_a_conversation_consists_of(client: anthropic.Anthropic, smollm2: Backend) -> None:
    """Each form of the same is the same for the model."""
    base = count(client, system="Be kind.")
    blocks: Any = [{"type": "text", "text": "Be kind.", "cache_control": {"type": "ephemeral"}}]
    assert count(client, system=blocks) == base
    assert count(client, messages=[{"role": "system", "content": "Be kind."}, *HELLO]) == base
    # Claude Code's differs in each request, and would make each prompt a new one
    billing: Any = {"type": "text", "text": "x-anthropic-billing-header: cc_version=1; cch=12345;"}
    assert count(client, system=[billing, *blocks]) == base
    halves: Any = [{"role": "user", "content": "Say"}, {"role": "user", "content": "hello"}]
    parts: Any = [{"type": "text", "text": "Say"}, {"type": "text", "text": "hello"}]
    assert count(client, messages=halves) == count(client, messages=[{"role": "user", "content": parts}])
    thought: Any = [
        {"type": "thinking", "thinking": "Hm.", "signature": ""},
        {"type": "redacted_thinking", "data": "x"},
        {"type": "text", "text": "Hello!"},
    ]
    again: Any = {"role": "user", "content": "Again"}
    said = count(client, messages=[*HELLO, {"role": "assistant", "content": "Hello!"}, again])
    assert count(client, messages=[*HELLO, {"role": "assistant", "content": thought}, again]) == said
    accepted = {
        "metadata": {"user_id": "x"},
        # what Claude Code sends to every model
        "thinking": {"type": "adaptive"},
        "output_config": {"effort": "high"},
        "service_tier": "auto",
        "top_k": 5,
        "top_p": 0.9,
    }
    assert create(client, **accepted).content
    assert smollm2.output == ""


def test_which_stop_sequence_it_was(client: anthropic.Anthropic) -> None:
    plain = create(client).content[0].text
    word = plain.split()[2]
    fields = {"stop_sequences": ["NEVER", word, f"{word}NEVER"]}
    whole = create(client, **fields)
    assert (whole.stop_reason, whole.stop_sequence) == ("stop_sequence", word)
    assert whole.content[0].text == plain[: plain.index(word)]
    assert 0 < whole.usage.output_tokens <= 12
    check_same(whole, streamed(client, **fields)[1])
    # what only looks like one is text
    whole = create(client, stop_sequences=[f"{plain[-2:]}NEVER"])
    assert (whole.content[0].text, whole.stop_reason) == (plain, "max_tokens")
    check_same(whole, streamed(client, stop_sequences=[f"{plain[-2:]}NEVER"])[1])


def test_an_answer_that_ends_by_itself(client: anthropic.Anthropic) -> None:
    one_word: Any = [{"role": "user", "content": "Answer with the single word: yes"}]
    whole = create(client, messages=one_word, max_tokens=200, stop_sequences=["NEVER"])
    assert (whole.stop_reason, whole.stop_sequence) == ("end_turn", None)
    check_same(whole, streamed(client, messages=one_word, max_tokens=200, stop_sequences=["NEVER"])[1])


def test_a_tool_that_must_be_used(client: anthropic.Anthropic) -> None:
    fields: Any = {"tools": [PAINT], "tool_choice": {"type": "tool", "name": "paint"}, "max_tokens": 40}
    whole = create(client, **fields)
    assert whole.stop_reason == "tool_use"
    (block,) = whole.content
    assert (block.type, block.name) == ("tool_use", "paint")
    assert block.input["colour"] in ("red", "blue")
    events, made = streamed(client, **fields)
    check_same(whole, made)
    assert any(event.type == "input_json" for event in events)


def test_a_tool_of_the_models_choice_and_its_result(caller: anthropic.Anthropic, engine: str) -> None:
    question: Any = [{"role": "user", "content": "The weather in Paris?"}]
    fields: Any = {"tools": [WEATHER], "messages": question, "max_tokens": 60}
    whole = create(caller, **fields)
    assert whole.stop_reason == "tool_use"
    (block,) = whole.content
    assert (block.type, block.name, block.input) == ("tool_use", "get_weather", {"city": "Paris"})
    check_same(whole, streamed(caller, **fields)[1])
    assert whole.usage.input_tokens == count(caller, tools=[WEATHER], messages=question)
    assert count(caller, messages=question) < whole.usage.input_tokens

    def follow(content: Any, **more: Any) -> int:
        result = {"type": "tool_result", "tool_use_id": block.id, "content": content, **more}
        turns: Any = [
            whole.to_param(),
            {"role": "user", "content": [result, {"type": "text", "text": "Well?"}]},
        ]
        answer = create(caller, **{**fields, "messages": [*question, *turns], "max_tokens": 1})
        assert answer.usage.input_tokens == count(caller, tools=[WEATHER], messages=[*question, *turns])
        return int(answer.usage.input_tokens)

    assert follow("sunny") == follow([{"type": "text", "text": "sunny"}]) < follow("sunny", is_error=True)
    with pytest.raises(anthropic.BadRequestError, match=r"messages\.2\.content\.0\.content\.0"):
        follow([{"type": "image", "source": {"type": "url", "url": "http://x"}}])


def test_any_tool_and_none(caller: anthropic.Anthropic) -> None:
    both = {"tools": [WEATHER, PAINT], "max_tokens": 60}
    forced = create(caller, **both, tool_choice={"type": "any", "disable_parallel_tool_use": True})
    assert [block.type for block in forced.content] == ["tool_use"]
    none = create(caller, **both, tool_choice={"type": "none"})
    assert none.stop_reason != "tool_use"
    assert none.usage.input_tokens < forced.usage.input_tokens


def test_json_by_a_schema(client: anthropic.Anthropic) -> None:
    form = {"type": "json_schema", "schema": PAINT["input_schema"]}
    whole = create(client, output_config={"format": form}, max_tokens=40)
    assert json.loads(whole.content[0].text)["colour"] in ("red", "blue")


@pytest.mark.engine("native")
def test_thoughts_are_blocks_of_their_own(start: Any, models: Any, tmp_path: Any) -> None:
    file = with_template(models / "smollm2.gguf", tmp_path / "x.gguf", THINKING)
    backend = start(f"MODEL={file}\nN_THREADS=1\nN_CTX=1024\n")
    backend.wait_for("READY=1")
    with sdk(backend) as client:
        whole = create(client, max_tokens=30)
        assert [block.type for block in whole.content] == ["thinking", "text"]
        events, made = streamed(client, max_tokens=30)
        check_same(whole, made)
        assert any(event.type == "signature" for event in events)
        turns: Any = [whole.to_param(), {"role": "user", "content": "Again"}]
        assert create(client, messages=[*HELLO, *turns], max_tokens=1).content


@pytest.fixture(scope="module")
def thinker(start_shared: Any, models: Any, tmp_path_factory: Any) -> Iterator[anthropic.Anthropic]:
    """A model that thinks, unless its template is told otherwise."""
    file = with_template(models / "smollm2.gguf", tmp_path_factory.mktemp("gguf") / "x.gguf", SWITCHED)
    backend = start_shared(f"MODEL={file}\nN_THREADS=1\nN_CTX=1024\n")
    backend.wait_for("READY=1")
    with sdk(backend) as client:
        yield client
    assert backend.output == ""


OFF: Any = {"type": "disabled"}
THINK: Any = {"messages": [{"role": "user", "content": "Think"}], "max_tokens": 40}


@pytest.mark.engine("native")
def test_thinking_is_as_long_as_the_client_says(thinker: anthropic.Anthropic) -> None:
    def thought(**fields: Any) -> str:
        whole = create(thinker, **THINK, **fields)
        check_same(whole, streamed(thinker, **THINK, **fields)[1])
        *thoughts, text = whole.content
        assert text.text == ANSWER
        return "".join(block.thinking for block in thoughts).strip()

    for fields in ({}, {"thinking": {"type": "adaptive"}}):
        assert thought(**fields) == THOUGHT
    assert thought(thinking={"type": "enabled", "budget_tokens": 1024}) == THOUGHT
    assert 0 < len(thought(thinking={"type": "enabled", "budget_tokens": 2})) < len(THOUGHT)
    assert thought(thinking=OFF) == ""
    fields = {"thinking": {"type": "enabled", "budget_tokens": 1024}}
    assert count(thinker, messages=THINK["messages"], **fields) == create(thinker, **THINK).usage.input_tokens


@pytest.mark.engine("native")
def test_a_model_without_a_switch_is_kept_from_thinking_too(start: Any, models: Any, tmp_path: Any) -> None:
    """As of DeepSeek R1: its answer begins with its thinking in any case."""
    template = SWITCHED.replace("enable_thinking is defined and not enable_thinking", "false")
    template = template.removesuffix("{% endif %}") + "<think>\n{% endif %}"
    file = with_template(models / "smollm2.gguf", tmp_path / "x.gguf", template)
    backend = start(f"MODEL={file}\nN_THREADS=1\nN_CTX=1024\n")
    backend.wait_for("READY=1")
    with sdk(backend) as client:
        thought, text = create(client, **THINK).content
        assert (thought.thinking.strip(), text.text.strip()) == (THOUGHT, ANSWER)
        for made in (create(client, **THINK, thinking=OFF), streamed(client, **THINK, thinking=OFF)[1]):
            assert [block.text.strip() for block in made.content] == [ANSWER]


def test_thinking_can_be_switched_off_with_either_engine(thinker: anthropic.Anthropic) -> None:
    whole = create(thinker, **THINK, thinking=OFF)
    assert [block.text for block in whole.content] == [ANSWER]


def test_thoughts_come_back_to_the_model(thinker: anthropic.Anthropic) -> None:
    def tokens(*blocks: Any) -> int:
        turns: Any = [*HELLO, {"role": "assistant", "content": list(blocks)}, *HELLO]
        return count(thinker, messages=turns)

    said, thought = (
        {"type": "text", "text": "Hello."},
        {"type": "thinking", "thinking": "So.", "signature": ""},
    )
    assert tokens(said) + 3 < tokens(thought, said)


def test_a_model_that_cannot_think_is_not_made_to(
    client: anthropic.Anthropic, thinker: anthropic.Anthropic, engine: str
) -> None:
    wanted: Any = {"type": "enabled", "budget_tokens": 1024}
    for backend in (client, thinker) if engine == "llama-cpp-python" else (client,):
        for ask in (create, count):
            with pytest.raises(
                anthropic.BadRequestError, match=r"thinking\.budget_tokens: .*ENGINE=native"
            ) as said:
                ask(backend, thinking=wanted)
            assert said.value.error_code == "reasoning_not_supported"


def one(block: dict[str, Any], role: str = "user") -> dict[str, Any]:
    return {"messages": [{"role": role, "content": [block]}]}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"max_tokens": None}, "max_tokens"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"max_tokens": "9"}, "max_tokens"),
    ({"messages": []}, "messages"),
    ({"messages": "x"}, "messages"),
    ({"messages": [7]}, "messages.0"),
    ({"messages": [{"role": "robot", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user"}]}, "messages.0.content"),
    (one({"text": "x"}), "messages.0.content.0"),
    (one({"type": "text"}), "messages.0.content.0.text"),
    (one({"type": "document"}), "messages.0.content.0"),
    (one({"type": "tool_use"}), "messages.0.content.0"),
    (one({"type": "tool_result"}), "messages.0.content.0.tool_use_id"),
    (one({"type": "tool_use"}, "assistant"), "messages.0.content.0.input"),
    ({"system": 7}, "system"),
    ({"system": [{"type": "image"}]}, "system.0"),
    ({"stream": "yes"}, "stream"),
    ({"temperature": 9}, "temperature"),
    ({"top_k": 0.5}, "top_k"),
    ({"stop_sequences": "x"}, "stop_sequences"),
    ({"stop_sequences": ["x"] * 99}, "stop_sequences"),
    ({"stop_sequences": [7]}, "stop_sequences"),
    ({"tools": 7}, "tools"),
    ({"tools": [{"name": "x"}]}, "tools.0.input_schema"),
    ({"tools": [{**PAINT, "name": "a b"}]}, "tools.0.name"),
    ({"tools": [{"type": "web_search_20250305", "name": "web_search"}]}, "tools.0.type"),
    ({"tools": [PAINT]}, "tool_choice"),
    ({"tools": [PAINT], "tool_choice": "auto"}, "tool_choice"),
    ({"tools": [PAINT], "tool_choice": {"type": "tool", "name": "x"}}, "tool_choice"),
    ({"tools": [PAINT], "tool_choice": {"type": "tool"}}, "tool_choice.name"),
    ({"thinking": 7}, "thinking"),
    ({"thinking": {}}, "thinking"),
    ({"thinking": {"type": "much"}}, "thinking"),
    ({"thinking": {"type": []}}, "thinking"),
    ({"thinking": {"type": "enabled"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 0}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": "9"}}, "thinking.budget_tokens"),
    ({"thinking": {"type": "enabled", "budget_tokens": 10**12}}, "thinking.budget_tokens"),
    ({"output_config": {"effort": "some"}}, "output_config.effort"),
    ({"output_config": {"effort": 7}}, "output_config.effort"),
    ({"output_config": {"format": {"type": "xml"}}}, "output_config.format"),
    ({"output_config": {"format": {"type": "json_schema", "schema": 7}}}, "output_config.format.schema"),
    ({"model": 7}, "model"),
]


@pytest.mark.parametrize(("fields", "place"), REFUSED)
def test_what_cannot_work_is_one_clear_400(smollm2: Backend, fields: dict[str, Any], place: str) -> None:
    for stream in (False, True):
        answer = smollm2.post(MESSAGES, {"stream": stream, **BODY, **fields})
        assert answer.status_code == 400, answer.text
        told = answer.json()
        assert told.keys() == {"type", "error", "request_id"}
        assert (told["type"], told["error"]["type"]) == ("error", "invalid_request_error")
        assert told["error"]["message"].startswith(f"{place}: "), told
        assert told["request_id"] == answer.headers["x-request-id"]


def test_errors_are_the_exceptions_of_the_sdk(client: anthropic.Anthropic, smollm2: Backend) -> None:
    with pytest.raises(anthropic.NotFoundError) as missing:
        create(client, model="claude")
    assert missing.value.error_code == "model_not_found"
    long: Any = [{"role": "user", "content": "word " * 6000}]
    for stream in (False, True):
        # the words by which Claude Code knows that it must make its conversation shorter
        with pytest.raises(anthropic.BadRequestError, match=r"prompt is too long: \d+ tokens > 4096 maximum"):
            create(client, messages=long, stream=stream)
    # which somebody wants to know who may be too long
    assert count(client, messages=long) > 6000
    assert smollm2.client.get(MESSAGES).json()["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize("stream", [False, True])
def test_who_leaves_frees_the_model(smollm2: Backend, stream: bool) -> None:
    with sdk(smollm2) as leaving:
        long: Any = {"messages": [{"role": "user", "content": "word " * 3000}], "stream": stream}

        def ask() -> None:
            with pytest.raises((anthropic.APIConnectionError, httpx2.HTTPError, RuntimeError)):
                with leaving.with_options(timeout=1.5).messages.create(**asked(long)) as events:
                    list(events)

        worker = threading.Thread(target=ask)
        worker.start()
        wait_busy(smollm2)
        worker.join()
    wait_busy(smollm2, busy=False)
    assert smollm2.output == ""


def test_a_cancelled_stream_ends_with_an_error_and_what_it_took(smollm2: Backend) -> None:
    body = {**BODY, "max_tokens": 3000, "messages": [{"role": "user", "content": SEA}]}
    body["stream"] = True
    with smollm2.client.stream(
        "POST", MESSAGES, json=body, headers={"x-request-id": "cancelled-message"}
    ) as answer:
        events = answer.iter_text()
        first = next(events)
        assert smollm2.post("/cancel/cancelled-message", {}).json()["prompt_tokens"] > 0
        *_, last = (first + "".join(events)).strip().split("\n\n")
    assert last.startswith("event: error\ndata: ")
    told = json.loads(last.partition("data: ")[2])
    assert told["error"]["details"] == {"error_code": "request_cancelled"}
    assert told["usage"]["input_tokens"] > 0


def test_counting_needs_no_turn(client: anthropic.Anthropic, smollm2: Backend) -> None:
    """Also of an engine that does one request at a time."""
    reads, answers = begin(smollm2, {"prompt": "number " * 3000, "max_tokens": 1}, "reads")
    assert count(client) > 0
    assert not answers
    assert smollm2.post("/cancel/reads", {}).json()["completion_tokens"] == 0
    reads.join()


def body(content: object = "Say hello", **fields: object) -> bytes:
    return json.dumps({**BODY, "messages": [{"role": "user", "content": content}], **fields}).encode()


def forced(property_: object) -> bytes:
    """A tool that must be used, with a property of this schema."""
    schema = {"type": "object", "properties": {"a": property_}}
    return body(tools=[{**PAINT, "input_schema": schema}], tool_choice={"type": "tool", "name": "paint"})


def deep(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


KILLERS: dict[str, bytes] = {
    "deep content": body().replace(b'"Say hello"', deep(900)),
    "content too deep for a parser": body().replace(b'"Say hello"', deep(200_000)),
    "a deep part": body([{"type": "text", "text": "x", "y": 7}]).replace(b"7", deep(900)),
    "many blocks": body([{"type": "text", "text": "a"}] * 40_000),
    "many messages": body(messages=HELLO * 40_000),
    "many turns": body(messages=[*HELLO, {"role": "assistant", "content": "x"}] * 9_000),
    "many results": body([{"type": "tool_result", "tool_use_id": "x"}] * 9_000),
    "a huge block": body("x" * 900_000),
    "a run of blanks": body(" " * 900_000),
    "half a character": body("\ud800"),
    "noncharacters": body("\ufdd0\uffff\U0010ffff\u0000<|im_end|>"),
    "no UTF-8": body().replace(b"Say", b"\xff\xfe"),
    "a deep schema": forced(json.loads('{"items":' * 300 + "{}" + "}" * 300)),
    "a pattern": forced({"type": "string", "pattern": "(" * 5000}),
}


@pytest.mark.parametrize("path", [MESSAGES, COUNT])
@pytest.mark.parametrize("name", KILLERS)
def test_killers_are_refused_or_answered(smollm2: Backend, name: str, path: str) -> None:
    answer = smollm2.client.post(path, content=KILLERS[name])
    assert answer.status_code in (200, 400, 413), answer.text
    if answer.status_code != 200:
        assert answer.json()["type"] == "error"
        assert len(answer.json()["error"]["message"]) < 400
    assert smollm2.process.poll() is None
    assert smollm2.output == ""


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
) | st.sampled_from(["user", "assistant", "text", "tool_use", "tool_result", "any", "x" * 3000, []])
USE = {"type": "tool_use", "id": "a", "name": "paint", "input": {"colour": "red"}}
WHOLE: dict[str, Any] = {
    **BODY,
    "max_tokens": 2,
    "system": [{"type": "text", "text": "Be kind."}],
    "messages": [
        *HELLO,
        {"role": "assistant", "content": [USE]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "a", "content": "done"}]},
    ],
    "tools": [PAINT],
    "tool_choice": {"type": "tool", "name": "paint", "disable_parallel_tool_use": True},
    "stop_sequences": ["x"],
    "thinking": {"type": "disabled"},
    "output_config": {},
    "stream": False,
}  # fmt: skip


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all parts of a JSON value but itself."""
    entries = (
        value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    )
    for key, part in entries:
        yield (*path, key)
        yield from places(part, (*path, key))


@st.composite
def broken(draw: Any) -> dict[str, Any]:
    """A whole body with some parts replaced, or gone."""
    body = copy.deepcopy(WHOLE)
    body["stream"] = draw(st.booleans())
    for _ in range(draw(st.integers(0, 3))):
        *way, last = draw(st.sampled_from(list(places(body))))
        at: Any = body
        for step in way:
            at = at[step]
        if draw(st.booleans()):
            at[last] = draw(JUNK)
        else:
            del at[last]
    return body


def test_broken_bodies_are_refused_or_answered(smollm2: Backend, long: bool) -> None:
    seen: collections.Counter[int] = collections.Counter()

    @settings(
        max_examples=3000 if long else 80,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
    )
    @given(broken())
    def check(body: dict[str, Any]) -> None:
        raw = json.dumps(body).encode()
        answer = smollm2.client.post(MESSAGES, content=raw)
        counted = smollm2.client.post(COUNT, content=raw)
        seen[answer.status_code] += 1
        assert answer.status_code in (200, 400, 404), answer.text
        assert counted.status_code in (200, 400, 404), counted.text
        if answer.status_code != 200:
            assert answer.json()["type"] == "error"
        elif body.get("stream") is True:
            assert answer.text.endswith('event: message_stop\ndata: {"type":"message_stop"}\n\n')
        else:
            assert answer.json()["usage"]["input_tokens"] == counted.json()["input_tokens"]
        assert smollm2.process.poll() is None
        assert smollm2.output == ""

    check()
    assert seen[200] and seen[400], seen
