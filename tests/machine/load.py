"""Clients that keep the service busy in a loop and write down every answer, whole or not."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import httpx
import openai

from tests.machine.conftest import Machine

T = TypeVar("T")
CHAT: dict[str, Any] = {
    "model": "current",
    "max_tokens": 12,
    "messages": [{"role": "user", "content": "Tell me about the sea."}],
}


@dataclasses.dataclass
class Answer:
    """One request as its client saw it; `problem` is None where the answer was whole.

    Times are those of time.time(); `first` is that of a stream's first event.
    """

    client: str
    begin: float
    first: float = 0.0
    end: float = 0.0
    request_id: str = ""
    model: str = ""
    tokens: int | None = None
    problem: str | None = None


class Load:
    """Clients of all kinds, each in a thread of its own: by the SDK and by plain HTTP, streams and not.

    Those of the SDK keep their connection, the others open a new one for each request.

    :param keys: users' keys; the clients share them evenly
    :param clients: how many; every fourth is of the same kind
    :param tokens: the length of an answer
    :param stream_tokens: that of a stream, where it is another
    """

    def __init__(
        self,
        machine: Machine,
        keys: list[str],
        clients: int = 8,
        tokens: int = 12,
        stream_tokens: int | None = None,
    ) -> None:
        self.answers: list[Answer] = []
        whole, stream = CHAT | {"max_tokens": tokens}, CHAT | {"max_tokens": stream_tokens or tokens}
        kinds = [(_sdk_whole, whole), (_http_whole, whole), (_sdk_stream, stream), (_http_stream, stream)]
        self._machine = machine
        self._end = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._run, args=(f"{number}", *kinds[number % 4], keys[number // 2 % len(keys)])
            )
            for number in range(clients)
        ]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The clients send requests within; at the end each finishes the one it is at."""
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._end.set()
            for thread in self._threads:
                thread.join(timeout=300)

    def await_more(self, count: int) -> None:
        """Until so many more answers have come."""
        target, begin = len(self.answers) + count, time.monotonic()
        while len(self.answers) < target:
            assert time.monotonic() - begin < 60 + count, "no answers any more"
            time.sleep(0.05)

    def streams_at(self, moment: float) -> list[Answer]:
        """The streams that were asked for before a moment, and had their end after it."""
        return [a for a in self.answers if a.client.endswith("stream") and a.begin < moment < a.end]

    def problems(self) -> list[str]:
        """What went wrong, one line a request."""
        return [f"{a.end:.2f} client {a.client} {a.problem}" for a in self.answers if a.problem]

    def _run(
        self,
        name: str,
        kind: Callable[[Any, dict[str, Any], Answer], None],
        body: dict[str, Any],
        key: str,
    ) -> None:
        with (
            self._machine.network(),
            httpx.Client(trust_env=False, verify=False, timeout=200) as http,
            openai.OpenAI(
                api_key=key, base_url=f"{self._machine.base_url}/v1", max_retries=0, http_client=http
            ) as sdk,
        ):
            while not self._end.is_set():
                answer = Answer(f"{name} {kind.__name__.strip('_')}", time.time())
                try:
                    kind(sdk, body, answer)
                except (openai.OpenAIError, httpx.HTTPError, AssertionError, ValueError) as error:
                    answer.problem = f"{type(error).__name__}: {error}"
                answer.end = time.time()
                self.answers.append(answer)


def _sdk_whole(sdk: openai.OpenAI, body: dict[str, Any], answer: Answer) -> None:
    raw = sdk.chat.completions.with_raw_response.create(**body)
    answer.request_id = raw.headers["x-request-id"]
    completion = raw.parse()
    _whole(answer, json.loads(completion.model_dump_json()))


def _sdk_stream(sdk: openai.OpenAI, body: dict[str, Any], answer: Answer) -> None:
    raw = sdk.chat.completions.with_raw_response.create(
        **body, stream=True, stream_options={"include_usage": True}
    )
    answer.request_id = raw.headers["x-request-id"]
    _streamed(answer, [json.loads(chunk.model_dump_json()) for chunk in _noting_first(answer, raw.parse())])


def _http_whole(sdk: openai.OpenAI, body: dict[str, Any], answer: Answer) -> None:
    got = sdk._client.post(_url(sdk), json=body, headers=_headers(sdk))
    answer.request_id = got.headers["x-request-id"]
    assert got.status_code == 200, f"{got.status_code} {got.text}"
    _whole(answer, got.json())


def _http_stream(sdk: openai.OpenAI, body: dict[str, Any], answer: Answer) -> None:
    body = {**body, "stream": True, "stream_options": {"include_usage": True}}
    with sdk._client.stream("POST", _url(sdk), json=body, headers=_headers(sdk)) as got:
        answer.request_id = got.headers["x-request-id"]
        lines = [line[6:] for line in _noting_first(answer, got.iter_lines()) if line.startswith("data: ")]
    assert got.status_code == 200, f"{got.status_code} {lines}"
    assert lines.count("[DONE]") == 1 and lines[-1] == "[DONE]", f"ends with {lines[-1:]}"
    _streamed(answer, [json.loads(line) for line in lines[:-1]])


def _url(sdk: openai.OpenAI) -> str:
    return f"{sdk.base_url}chat/completions"


def _headers(sdk: openai.OpenAI) -> dict[str, str]:
    return {**sdk.auth_headers, "connection": "close"}


def _noting_first(answer: Answer, events: Iterable[T]) -> Iterator[T]:
    for event in events:
        answer.first = answer.first or time.time()
        yield event


def _whole(answer: Answer, body: dict[str, Any]) -> None:
    (choice,) = body["choices"]
    assert choice["finish_reason"] in ("stop", "length"), choice
    answer.model, answer.tokens = body["model"], body["usage"]["completion_tokens"]


def _streamed(answer: Answer, chunks: list[dict[str, Any]]) -> None:
    assert not any("error" in chunk for chunk in chunks), chunks[-1]
    ends = [c["choices"][0]["finish_reason"] for c in chunks if c["choices"]]
    assert ends and ends[-1] in ("stop", "length") and not any(ends[:-1]), f"finish reasons {ends}"
    assert len({chunk["id"] for chunk in chunks}) == 1, "two answers in one stream"
    answer.model, answer.tokens = chunks[-1]["model"], chunks[-1]["usage"]["completion_tokens"]
