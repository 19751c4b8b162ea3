"""The order of an installation: what is due, then the question to the model, the first user last."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from installer import apply, undo, verify
from installer.actions import Action, Step
from installer.plan import Plan
from llmsvc.errors import Error, UnavailableError


class Host:
    """A plan for a host on which nothing is real; `did` is what was done to it."""

    config: Any = None
    units: dict[str, str] = {}
    files: list[Any] = []
    manifest = SimpleNamespace(file=Path("/manifest"))

    def __init__(self, due: dict[str, bool]) -> None:
        self.due = due
        self.did: list[str] = []

    def check(self) -> None:
        self.did.append("check")

    def pending(self) -> list[Action]:
        return [self.step(name) for name in self.due if name != "first user" and self.due[name]]

    def first_user(self) -> Action:
        return self.step("first user")

    def step(self, name: str) -> Step:
        return Step("file", name, lambda: self.due[name], lambda undo: self.did.append(name))


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[str, bool]], Host]:
    """Makes a host whose transactions are noted as begin, commit and put back."""

    def make(due: dict[str, bool]) -> Host:
        host = Host(due)

        @contextlib.contextmanager
        def transaction(report: object) -> Iterator[Any]:
            host.did.append("begin")
            try:
                yield SimpleNamespace(file=lambda path: None)
            except BaseException:
                host.did.append("put back")
                raise
            host.did.append("commit")

        monkeypatch.setattr(undo, "transaction", transaction)
        return host

    return make


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


def test_what_is_due_is_done_in_order_and_the_first_user_last(host, ask: list[str]) -> None:
    made = host({"a": True, "b": False, "c": True, "first user": True})
    assert install(made) == apply.Done(["a", "c", "first user"], "hello")
    assert made.did == ["check", "begin", "a", "c", "commit", "first user"]


def test_nothing_due_asks_nothing(host, ask: list[str]) -> None:
    made = host({"a": False, "first user": False})
    assert install(made) == apply.Done([], None)
    assert ask == ["hello"] and made.did == ["check"]


def test_without_an_answer_all_is_put_back_and_no_key_is_made_that_nobody_would_see(
    host, ask: list[str]
) -> None:
    ask.clear()
    made = host({"a": True, "first user": True})
    with pytest.raises(Error, match="no answer"):
        install(made)
    assert made.did == ["check", "begin", "a", "put back"]


def test_only_the_first_user_is_missing(host, ask: list[str]) -> None:
    made = host({"a": False, "first user": True})
    assert install(made) == apply.Done(["first user"], "hello")


def test_a_step_is_due_after_one_that_it_needs() -> None:
    def never() -> bool:
        raise AssertionError("cannot be told yet")

    first = Step("sql", "first", lambda: True, lambda undo: None)
    second = Step("sql", "second", never, lambda undo: None, needs=[first])
    third = Step("sql", "third", never, lambda undo: None, needs=[second])
    assert second.due_after([first]) and third.due_after([first, second])
    with pytest.raises(AssertionError):
        second.due_after([])
