"""The order of an installation: what is due, then the question to the model, the first user last."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

import pytest

from installer import apply, verify
from installer.actions import Action, Step
from installer.plan import Plan
from llmsvc.errors import Error, UnavailableError


class Host:
    """A plan for a host on which nothing is real; `did` is what was done to it."""

    config: Any = None

    def __init__(self, due: dict[str, bool]) -> None:
        self.pending = due
        self.did: list[str] = []

    def check(self) -> None:
        self.did.append("check")

    def actions(self) -> Iterator[Action]:
        yield from (self.step(name) for name in self.pending if name != "first user")

    def first_user(self) -> Action:
        return self.step("first user")

    def step(self, name: str) -> Step:
        return Step(name, lambda: self.pending[name], lambda: self.did.append(name))


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The answers that the model will give."""
    answers = ["hello"]

    def ask(config: Any) -> str:
        if not answers:
            raise UnavailableError("no answer")
        return answers.pop()

    monkeypatch.setattr(verify, "ask", ask)
    return answers


def install(host: Host) -> apply.Done:
    return apply.apply(cast(Plan, host), lambda title: None)


def test_what_is_due_is_done_in_order_and_the_first_user_last(ask: list[str]) -> None:
    host = Host({"a": True, "b": False, "c": True, "first user": True})
    assert install(host) == apply.Done(["a", "c", "first user"], "hello")
    assert host.did == ["check", "a", "c", "first user"]


def test_nothing_due_asks_nothing(ask: list[str]) -> None:
    host = Host({"a": False, "first user": False})
    assert install(host) == apply.Done([], None)
    assert ask == ["hello"]


def test_without_an_answer_no_key_is_made_that_nobody_would_see(ask: list[str]) -> None:
    ask.clear()
    host = Host({"a": True, "first user": True})
    with pytest.raises(Error, match="no answer"):
        install(host)
    assert host.did == ["check", "a"]
    host.pending["a"] = False
    ask.append("now")
    assert install(host) == apply.Done(["first user"], "now")
