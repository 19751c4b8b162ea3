"""What the proxy reads of an instance that is on its way."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from llmsvc.proxy.backend_client import Connections
from llmsvc.proxy.backends import Backend, Loading, Usage, ready_instances


@pytest.fixture
def loading(tmp_path: Path) -> Path:
    """The file in which instance m tells how far it is."""
    (tmp_path / "m").mkdir()
    return tmp_path / "m" / "loading"


@pytest.mark.parametrize(
    ("text", "percent", "told"),
    [
        ("37 Loading m.gguf\n", 37, "Loading m.gguf"),
        ("900 x", 100, "x"),
        ("soon", None, "soon"),
        ("", None, None),
    ],
)
def test_a_load_is_told_in_its_own_words(
    loading: Path, text: str, percent: int | None, told: str | None
) -> None:
    loading.write_text(text)
    ready, coming = ready_instances(loading.parents[1])
    assert ready == []
    assert coming == Loading("m", percent, told, loading.stat().st_mtime_ns)


def test_a_load_cannot_make_the_proxy_tell_another_file_nor_wait_nor_read_for_ever(loading: Path) -> None:
    instances, secret = loading.parents[1], loading.with_name("pepper")
    secret.write_text("secret")
    loading.symlink_to(secret)
    assert ready_instances(instances)[1] == Loading("m")
    loading.unlink()
    os.mkfifo(loading)
    coming = ready_instances(instances)[1]
    assert coming is not None and coming.text is None
    loading.unlink()
    loading.write_text("1 " + "x" * 100_000)
    coming = ready_instances(instances)[1]
    assert coming is not None and coming.text == "x" * 200


async def test_a_cancel_that_overtook_its_request_is_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    backend = Backend("m", None, 0, Connections(Path()))
    answers = [(404, b"{}"), (200, b'{"prompt_tokens": 5, "completion_tokens": 0}')]

    async def command(path: str) -> tuple[int, bytes]:
        assert path == "/cancel/x"
        return answers.pop(0)

    monkeypatch.setattr(backend, "_command", command)
    assert await backend.cancel("x") == Usage(5, 0)
    answers[:] = [(404, b"{}")] * 3
    assert await backend.cancel("x") is None
    assert answers == []
