"""What llama.cpp's server is started with, and what is made of its end."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest

from llmsvc import env
from llmsvc.backend.bodies import Model, completion
from llmsvc.backend.jobs import Job
from llmsvc.backend.llamalog import Log
from llmsvc.backend.native import options, server
from llmsvc.backend.native.engine import Engine
from llmsvc.backend.native.http import Http
from llmsvc.backend.native.renewal import Renewal
from llmsvc.backend.native.requests import Task
from llmsvc.backend.native.slots import Slots
from llmsvc.library import gguf, settings
from tests.unit.library import ggufs

ASSERTION = "/x/llama-context.cpp:2289: GGML_ASSERT(n_outputs_max <= cparams.n_outputs_max) failed"


def model(lines: str) -> settings.ModelSettings:
    file = Path("/etc/llmsvc/models.d/m.env")
    return settings.parse("m", env.parse(f"MODEL=/m.gguf\nENGINE=native\n{lines}", file), file)


@pytest.mark.parametrize(
    ("lines", "gpu", "batch"),
    [
        ("", False, 32),
        ("", True, 512),
        ("SLOTS=33", False, 33),
        ("SLOTS=64\nN_BATCH=8", True, 64),
        ("SLOTS=4\nN_BATCH=8\nN_UBATCH=2", False, 8),
    ],
)
def test_a_batch_has_room_for_a_token_of_each_slot(tmp_path, lines, gpu, batch):
    file = tmp_path / "m.gguf"
    file.write_bytes(ggufs.gguf(ggufs.META))
    made = options.parameters(model(lines), gguf.read_header(file), gpu=gpu)
    assert made["n_batch"] == batch >= made["n_parallel"]
    assert made["n_ubatch"] <= batch


@pytest.mark.parametrize(
    ("said", "reason"),
    [(ASSERTION, ASSERTION), ("", "its server ended with signal 6")],
    ids=["it says why", "it says nothing"],
)
def test_why_it_did_not_start_is_not_what_it_always_warns_of(tmp_path, monkeypatch, said, reason):
    warning = "0.00.011.655 W srv          init: security: no API key is set and CORS allows all origins"
    script = tmp_path / "child"
    script.write_text(
        f"#!/bin/sh\nread line\nprintf '%s\\n' '{warning}' '{said}' '[New LWP 1]' >&2\nkill -ABRT $$\n"
    )
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    log = Log(lambda _: None)
    log.start()
    child = server.LlamaServer(tmp_path, log)
    assert not child.start({"model.path": "/m.gguf"}, 1, None)
    error = log.load_error(model(""), f"its server ended with {child.ended}")
    assert str(error).endswith(f"llama.cpp cannot load it: {reason}")


def test_a_server_that_hangs_is_noticed_though_all_have_left_and_others_came(tmp_path):
    """systemd's watchdog then ends it; see Server._show_life()."""

    async def scenario() -> None:
        asked: asyncio.Queue[bytes] = asyncio.Queue()
        over = asyncio.Event()

        async def hang(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.put_nowait(await reader.readline())
            await over.wait()
            writer.close()

        engine = object.__new__(Engine)
        engine.model = Model("m", "m.gguf", n_vocab=10)
        engine._settings = model("")
        engine._slots = Slots(2, per_user=False)
        engine._running, engine._moved, engine._speed = set(), 0.0, None
        engine._renewal = Renewal(lambda: None)
        engine._http = Http(tmp_path / "http.sock")
        request = completion({"prompt": "x"}, engine.model)

        def run(name: str) -> tuple[Job, asyncio.Task[None]]:
            job = Job(name)
            job.task = Task("/v1/completions", {}, ())
            return job, asyncio.ensure_future(engine.run(request, job, asyncio.Queue()))

        async with await asyncio.start_unix_server(hang, tmp_path / "http.sock"):
            assert engine.alive(30)
            first, running = run("a")
            assert (await asked.get()).startswith(b"POST")
            assert engine.alive(30)
            first.cancel("cancel")
            assert (await asked.get()).startswith(b"GET /slots")
            engine._moved -= 31
            assert not engine.alive(30)
            _, waiting = run("b")
            await asked.get()
            assert not engine.alive(30)
            over.set()
            await asyncio.gather(running, waiting, return_exceptions=True)

    asyncio.run(asyncio.wait_for(scenario(), 30))
