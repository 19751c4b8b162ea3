"""What only the engine native does: several requests at once, in a process of its own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import httpx
import pytest

from tests.engine.conftest import Backend
from tests.engine.test_cancel import ENDLESS, PREFILL, begin

pytestmark = pytest.mark.engine("native")


def child_of(backend: Backend) -> int:
    (child,) = Path(f"/proc/{backend.process.pid}/task/{backend.process.pid}/children").read_text().split()
    return int(child)


def wait_reading(backend: Backend) -> None:
    """Until the server has read a batch of a prompt, as it tells nobody but us."""
    transport = httpx.HTTPTransport(uds=str(backend.socket.with_name("engine") / "http.sock"))
    deadline = time.monotonic() + 20
    with httpx.Client(transport=transport, base_url="http://llama", timeout=20) as client:
        while not any(
            slot["is_processing"] and slot["n_prompt_tokens_processed"]
            for slot in client.get("/slots").json()
        ):
            assert time.monotonic() < deadline
            time.sleep(0.02)


def test_requests_run_side_by_side(smollm2):
    """Also one that comes while another's long prompt is read."""
    runs, _ = begin(smollm2, ENDLESS, "runs")
    # the third may have to wait until all of it is read, also on a machine that has much else to do
    reads, _ = begin(smollm2, {**PREFILL, "prompt": "word " * 1000}, "reads")
    assert smollm2.chat(max_tokens=3).status_code == 200
    for name in ("runs", "reads"):
        usage = smollm2.post(f"/cancel/{name}", {}).json()
        assert usage["prompt_tokens"] > 0
    runs.join()
    reads.join()
    assert smollm2.client.get("/health").json()["busy_since"] is None
    assert smollm2.output == ""


def test_who_asks_while_a_long_prompt_is_read_does_not_wait_for_all_of_it(start):
    """Also where a slot behind it was left longer ago than those before it."""
    backend = start("MODEL={models}/smollm2.gguf\nN_THREADS=1\nN_CTX=4096\nSLOTS=3\n")
    backend.wait_for("READY=1")
    for user in "abc":
        talk = {"prompt": f"{user} " * 130, "max_tokens": 1}
        assert backend.post("/v1/completions", talk, **{"x-user": user}).status_code == 200
    reads, answers = begin(backend, PREFILL, "reads")
    wait_reading(backend)
    asked = {"prompt": "Hello", "max_tokens": 2}
    assert backend.post("/v1/completions", asked, **{"x-user": "d"}).status_code == 200
    usage = backend.post("/cancel/reads", {}).json()
    reads.join()
    assert (answers[0].status_code, usage["completion_tokens"]) == (499, 0)


def test_there_may_be_as_many_slots_as_the_setting_takes(start):
    backend = start("MODEL={models}/smollm2.gguf\nN_THREADS=1\nN_CTX=256\nSLOTS=64\nN_BATCH=8\n")
    backend.wait_for("READY=1")
    assert backend.client.get("/health").json()["slots"] == 64
    assert backend.chat(max_tokens=2).status_code == 200


def test_a_crash_of_the_server_ends_the_backend_with_one_line(start):
    backend = start("MODEL={models}/smollm2.gguf\nN_THREADS=1\nN_CTX=512\nSLOTS=2\n")
    backend.wait_for("READY=1")
    os.kill(child_of(backend), signal.SIGSEGV)
    assert backend.finish() == 1
    assert backend.output == "llama.cpp's server ended by itself, with signal 11\n"


def test_the_server_ends_with_the_backend_however_that_ends(start):
    backend = start("MODEL={models}/smollm2.gguf\nN_THREADS=1\nN_CTX=512\nSLOTS=2\n")
    backend.wait_for("READY=1")
    child = child_of(backend)
    backend.process.kill()
    backend.process.wait()
    deadline = time.monotonic() + 10
    while Path(f"/proc/{child}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)


CHAT = {"messages": [{"role": "user", "content": "word " * 3000}], "max_tokens": 1}


@pytest.mark.parametrize(
    ("path", "body"),
    [("/v1/completions", PREFILL), ("/v1/chat/completions", CHAT)],
    ids=["completion", "chat"],
)
def test_a_stop_does_not_wait_for_a_server_that_is_at_work(start, path, body):
    """Who has been sent nothing is told so in time, and can be answered by another model."""
    backend = start("MODEL={models}/smollm2.gguf\nN_THREADS=1\n", config="LLAMA_PROXY_DRAIN_SECONDS=1\n")
    backend.wait_for("READY=1")
    worker, answers = begin(backend, body, "stopped", path)
    os.kill(child_of(backend), signal.SIGSTOP)  # as in a batch that takes long
    backend.process.terminate()
    worker.join()
    assert answers[0].status_code == 503, answers[0].text
    assert answers[0].json()["error"]["code"] == "model_stopping"
    assert backend.finish() == 0
    assert backend.output == ""


def test_only_the_backend_reaches_the_server(smollm2):
    folder = smollm2.socket.with_name("engine")
    assert folder.stat().st_mode & 0o777 == 0o700


def test_a_schema_that_no_grammar_may_be_made_of_is_shown_to_the_model_only(start, models, tmp_path):
    from tests.engine.gguf_copy import with_template
    from tests.engine.test_tools import MESSAGES, SHOW, TEMPLATES, TURNS

    call, history = TEMPLATES["hermes"]
    template = SHOW + TURNS.replace("CALL", call) + MESSAGES.replace("HISTORY", history)
    file = with_template(models / "smollm2.gguf", tmp_path / "x.gguf", template)
    backend = start(f"MODEL={file}\nN_THREADS=1\nN_CTX=2048\n")
    backend.wait_for("READY=1")
    for pattern in (r"^\\d+$", "(" * 5000, "^a{1,5000}$"):
        city = {"type": "string", "pattern": pattern}
        parameters = {"type": "object", "properties": {"city": city}}
        tool = {"type": "function", "function": {"name": "get_weather", "parameters": parameters}}
        answer = backend.chat("The weather in Paris?", tools=[tool], max_tokens=40, temperature=0)
        assert answer.status_code in (200, 400), answer.text
        forced = backend.chat("x", tools=[tool], tool_choice="required")
        assert forced.json()["error"]["code"] == "unsupported_schema"
    assert backend.output == ""
