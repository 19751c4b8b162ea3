"""A request that nobody waits for any more frees the model within a second."""

import os
import threading
import time
from pathlib import Path

import pytest

from tests.engine.gguf_copy import with_template

PREFILL = {"prompt": "word " * 3000, "max_tokens": 1}
ENDLESS = {"prompt": "One two three", "max_tokens": 3000, "logit_bias": {"2": -100, "0": -100}}


def begin(backend, body, request_id, path="/v1/completions"):
    """Sends in another thread; returns once the model is at work on it."""
    answers = []
    worker = threading.Thread(
        target=lambda: answers.append(backend.post(path, body, **{"x-request-id": request_id}))
    )
    worker.start()
    wait_busy(backend)
    return worker, answers


def wait_busy(backend, busy=True):
    deadline = time.monotonic() + 60
    while bool(backend.client.get("/health").json()["busy_since"]) is not busy:
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.mark.parametrize("stream", [False, True])
def test_cancel_in_the_middle_of_the_prompt(smollm2, stream):
    worker, answers = begin(smollm2, {**PREFILL, "stream": stream}, f"prefill-{stream}")
    time.sleep(0.5)
    begun = time.monotonic()
    cancelled = smollm2.post(f"/cancel/prefill-{stream}", {})
    assert time.monotonic() - begun < 5  # all of it takes 15 and more
    assert cancelled.json() == {"prompt_tokens": 3001, "completion_tokens": 0}
    worker.join()
    assert answers[0].status_code == 499
    assert answers[0].json()["error"]["code"] == "request_cancelled"
    assert smollm2.post(f"/cancel/prefill-{stream}", {}).json() == cancelled.json()


def test_cancel_of_a_stream_ends_it_with_an_error_event_and_counts_what_was_made(smollm2):
    body = {**ENDLESS, "stream": True}
    with smollm2.client.stream(
        "POST", "/v1/completions", json=body, headers={"x-request-id": "s"}
    ) as response:
        chunks = response.iter_bytes()
        next(chunks)
        counts = smollm2.post("/cancel/s", {}).json()
        rest = b"".join(chunks).decode()
    assert counts["completion_tokens"] > 0
    assert '"code":"request_cancelled"' in rest
    assert "[DONE]" not in rest
    assert smollm2.chat(max_tokens=1).status_code == 200


@pytest.mark.engine("llama-cpp-python")  # with the other one it would not wait
def test_a_waiting_request_is_cancelled_at_once_and_never_runs(smollm2):
    running, _ = begin(smollm2, ENDLESS, "running")
    answers = []
    waiting = threading.Thread(
        target=lambda: answers.append(smollm2.post("/v1/completions", PREFILL, **{"x-request-id": "waiting"}))
    )
    waiting.start()
    while (cancelled := smollm2.post("/cancel/waiting", {})).status_code == 404:
        pass
    assert cancelled.json() == {"prompt_tokens": 0, "completion_tokens": 0}
    waiting.join(60)
    assert answers[0].status_code == 499
    assert smollm2.client.get("/health").json()["busy_since"]
    smollm2.post("/cancel/running", {})
    running.join()


def test_after_a_cancel_the_next_answer_is_right(smollm2):
    def ask():
        return smollm2.chat("Name a colour", temperature=0, max_tokens=10).json()["choices"][0]["message"][
            "content"
        ]

    before = ask()
    worker, _ = begin(smollm2, PREFILL, "between")
    smollm2.post("/cancel/between", {})
    worker.join()
    assert ask() == before


def test_a_slow_reader_does_not_hold_the_model(smollm2):
    body = {"prompt": "One two three", "max_tokens": 60, "stream": True}
    with smollm2.client.stream("POST", "/v1/completions", json=body) as response:
        next(response.iter_bytes())
        assert smollm2.chat(max_tokens=2).status_code == 200


def test_an_unknown_id_is_a_404(smollm2):
    answer = smollm2.post("/cancel/never-seen", {})
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "request_not_found"


def start_endless(start, models, folder):
    """A backend whose template does not end over the message `loop`."""
    loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}"
    template = "{% if messages[0].content == 'loop' %}" + loop + "{% endif %}{{ messages[0].content }}"
    file = with_template(models / "smollm2.gguf", folder / "loop.gguf", template)
    backend = start(f"MODEL={file}\nN_THREADS=1\nN_CTX=256\n", env={"TEST_RENDER_SECONDS": "4"})
    backend.wait_for("READY=1")
    return backend


def test_a_template_that_does_not_end_is_cancelled_and_holds_nobody_up(start, models, tmp_path, engine):
    backend = start_endless(start, models, tmp_path)
    body = {"messages": [{"role": "user", "content": "loop"}]}
    answers = []

    def ask(request_id):
        answers.append(backend.post("/v1/chat/completions", body, **{"x-request-id": request_id}))

    workers = [threading.Thread(target=ask, args=(name,)) for name in ("one", "two")]
    for worker in workers:
        worker.start()
    assert backend.chat(max_tokens=1).status_code == 200
    for name in ("one", "two"):
        while (cancelled := backend.post(f"/cancel/{name}", {})).status_code == 404:
            pass
        assert cancelled.json() == {"prompt_tokens": 0, "completion_tokens": 0}
    for worker in workers:
        worker.join(60)
    assert [answer.status_code for answer in answers] == [499, 499]
    if engine == "llama-cpp-python":
        assert backend.output == ""


@pytest.mark.engine("native")  # the other one ends it at once
@pytest.mark.parametrize("cancelled", [False, True], ids=["waited for", "cancelled"])
def test_a_template_that_does_not_end_is_refused_and_keeps_no_core_busy(start, models, tmp_path, cancelled):
    backend = start_endless(start, models, tmp_path)
    body = {"messages": [{"role": "user", "content": "loop"}]}
    worker, answers = begin(backend, body, "loop", "/v1/chat/completions")
    if cancelled:
        assert backend.post("/cancel/loop", {}).json() == {"prompt_tokens": 0, "completion_tokens": 0}
    # somebody else's answer goes on to its end
    assert backend.chat(max_tokens=100).status_code == 200
    worker.join(60)
    if not cancelled:
        assert (answers[0].status_code, answers[0].json()["error"]["param"]) == (400, "messages")
    deadline = time.monotonic() + 60
    while "starts again" not in backend.output:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    # also while it starts
    assert backend.post("/extras/tokenize/count", {"input": "Hello"}).json()["count"] == 1
    assert backend.chat(max_tokens=1).status_code == 200
    before = cpu_seconds(backend)
    time.sleep(1)
    assert cpu_seconds(backend) - before < 0.5
    assert len(backend.output.splitlines()) == 1


def cpu_seconds(backend):
    """CPU time that the backend and its child have used."""
    family = [backend.process.pid]
    for children in Path(f"/proc/{family[0]}/task").glob("*/children"):
        family += map(int, children.read_text().split())
    ticks = 0
    for pid in family:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")
