"""The question at the end of an installation waits for what takes a moment, and for nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from installer import verify
from llmsvc import config, paths
from llmsvc.errors import DeniedError, UnavailableError


@pytest.fixture
def answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[Exception]:
    """What the proxy says to each question before it answers."""
    monkeypatch.setattr(paths, "LOCAL_KEY", tmp_path / "local-key")
    paths.LOCAL_KEY.write_text("sk-llm-x\n")
    monkeypatch.setattr(verify.time, "sleep", lambda _: None)
    refusals: list[Exception] = []

    def chat(*_: object, **__: object) -> Iterator[str]:
        if refusals:
            raise refusals.pop(0)
        return iter(["Hel", "lo "])

    monkeypatch.setattr(verify.client, "chat", chat)
    return refusals


def test_a_key_that_the_proxy_has_not_heard_of_yet_is_tried_again(answers: list[Exception]) -> None:
    answers += [DeniedError("not valid"), UnavailableError("no model yet"), DeniedError("not valid")]
    assert verify.ask(config.parse({}, Path())) == "Hello"


def test_a_key_that_is_refused_for_good_is_an_error(
    answers: list[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verify, "_NEW_KEY", -1)
    answers.append(DeniedError("not valid"))
    with pytest.raises(DeniedError):
        verify.ask(config.parse({}, Path()))
