"""How the process ends, and when it stops to show signs of life."""

import asyncio
import types

import pytest

from llmsvc.backend import loading, main
from llmsvc.backend.server import STUCK_SECONDS, Server
from llmsvc.errors import Error, ModelError
from llmsvc.systemd import notify


@pytest.mark.parametrize(
    ("failure", "line"),
    [
        (ModelError("is broken", hint="fetch it again"), "m: is broken (hint: fetch it again)"),
        (Error("no memory"), "m: no memory"),
        (MemoryError(), "m: not enough memory"),
        (KeyError("tokens\nof it"), "m: unexpected KeyError in test_main.py:"),
    ],
    ids=lambda value: type(value).__name__,
)
@pytest.mark.parametrize("loaded", [False, True])
def test_whatever_fails_is_one_line_and_the_status_says_when(monkeypatch, capfd, failure, line, loaded):
    def fail(*_arguments):
        raise failure

    monkeypatch.setattr(loading, "on_sigterm", lambda stop: None)
    monkeypatch.setattr(main, "_load", (lambda *_: fail) if loaded else fail)
    assert main.main("m") == (1 if loaded else 78)
    written = capfd.readouterr().err
    assert written.startswith(line)
    assert written.count("\n") == 1


async def test_signs_of_life_end_when_the_running_request_does_not_move(monkeypatch):
    asked, signs = [], []
    alive = iter([True, True, False, True])

    def is_alive(seconds):
        asked.append(seconds)
        return next(alive)

    monkeypatch.setattr(notify, "watchdog_seconds", lambda: 0.001)
    monkeypatch.setattr(notify, "watchdog", lambda: signs.append(len(asked)))
    server = object.__new__(Server)
    server._engine = types.SimpleNamespace(alive=is_alive)
    with pytest.raises((StopIteration, RuntimeError)):
        await asyncio.wait_for(server._show_life(), 10)
    assert signs == [1, 2, 4]
    assert set(asked) == {STUCK_SECONDS}
