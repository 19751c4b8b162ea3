"""The usage that is told is what llama.cpp's own tokenizer and the chat template make of a conversation."""

from __future__ import annotations

import contextlib
import itertools
import json
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import llama_cpp
import pytest
from llama_cpp.llama_chat_format import Jinja2ChatFormatter

from tests.engine.conftest import Backend

WORDS = [
    "the", "of", "and", "to", "water", "seven", "Zürich", "naïve", "東京", "🎉", "<b>", "&&", "x=1;", "\n\n",
    "\t", "3.14159", "...", "ÆØÅ", "don't", "KUBERNETES", "﷽", "e\u0301", "http://a.example/?a=1", "{}",
    "[1,2]", "—", "antidisestablishmentarianism", "“quoted”", "привет", "שלום", "0x7f", "a", "a", "", " ",
]  # fmt: skip
CHAT = "/v1/chat/completions"


class Reference:
    """llama.cpp without the backend: counts tokens only."""

    def __init__(self, path: str) -> None:
        self.llama = llama_cpp.Llama(path, vocab_only=True, verbose=False)
        self.end = self._text(self.llama.token_eos())
        metadata = self.llama.metadata
        self._format = Jinja2ChatFormatter(
            template=metadata["tokenizer.chat_template"],
            eos_token=self.end,
            bos_token=self._text(self.llama.token_bos()),
        )

    def _text(self, token: int) -> str:
        return str(self.llama._model.token_get_text(token))

    def prompt(self, messages: list[Any]) -> int:
        """Tokens of a conversation."""
        made = self._format(messages=messages)
        return len(self.llama.tokenize(made.prompt.encode(), add_bos=not made.added_special, special=True))

    def text(self, text: str) -> int:
        """Tokens of a text alone."""
        return len(self.llama.tokenize(text.encode(), add_bos=False, special=False))

    def close(self) -> None:
        self.llama.close()


@pytest.fixture(scope="module")
def reference(models: Path) -> Iterator[Reference]:
    with contextlib.closing(Reference(str(models / "smollm2.gguf"))) as reference:
        yield reference


def conversation(dice: random.Random) -> list[dict[str, str]]:
    """Some messages of random words, which ask for an answer."""
    roles = ["system"] * dice.randint(0, 1) + ["user", "assistant"] * dice.randint(0, 1) + ["user"]
    return [{"role": role, "content": " ".join(dice.choices(WORDS, k=dice.randint(1, 6)))} for role in roles]


def test_a_conversation_costs_what_llama_cpp_counts_streamed_and_not(
    smollm2: Backend, reference: Reference, long: bool
) -> None:
    """What is made is told by what ended it: the limit, or the end token, which is not counted."""
    for number in range(200 if long else 20):
        dice = random.Random(number)
        messages, most = conversation(dice), dice.randint(1, 5)
        body = {"messages": messages, "max_tokens": most, "temperature": 0}
        whole = smollm2.post(CHAT, body).json()
        *chunks, last = smollm2.events(smollm2.post(CHAT, {**body, "stream": True}))
        text = "".join(chunk["choices"][0]["delta"].get("content") or "" for chunk in chunks)
        # the second one may say something else: near a tie, what the cache holds decides
        for usage, choice, content in [
            (whole["usage"], whole["choices"][0], whole["choices"][0]["message"]["content"]),
            (last["usage"], chunks[-1]["choices"][0], text),
        ]:
            assert usage["prompt_tokens"] == reference.prompt(messages), number
            made = most if choice["finish_reason"] == "length" else reference.text(content)
            assert usage["completion_tokens"] == made, number


def test_an_aborted_answer_costs_what_was_sent_within_one_token(
    smollm2: Backend, reference: Reference, long: bool
) -> None:
    for number in range(20 if long else 3):
        dice = random.Random(number)
        messages = [{"role": "user", "content": f"Tell me a long story of {dice.randint(2, 99)} dogs"}]
        body = {
            "messages": messages,
            "max_tokens": 200,
            "stream": True,
            "temperature": 0,
            "logit_bias": {"2": -100},
        }
        name = f"aborted-{number}"
        with smollm2.client.stream("POST", CHAT, json=body, headers={"x-request-id": name}) as answer:
            events = (json.loads(line[6:]) for line in answer.iter_lines() if line.startswith("data: {"))
            seen = list(itertools.islice(events, dice.randint(2, 20)))
            cost = smollm2.post(f"/cancel/{name}", {}).json()
            *rest, end = events
        assert end["error"]["code"] == "request_cancelled"
        deltas = [choice["delta"] for event in [*seen, *rest] for choice in event["choices"]]
        text = "".join(delta.get("content") or "" for delta in deltas)
        assert cost["prompt_tokens"] == reference.prompt(messages)
        assert abs(cost["completion_tokens"] - reference.text(text)) <= 1, number
