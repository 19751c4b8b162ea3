"""Counting tokens takes no slot: it is answered while the model is at work, and harms nothing that runs."""

from __future__ import annotations

import concurrent.futures
import json
import time

import httpx
import pytest

from tests.engine.test_cancel import ENDLESS, begin, cpu_seconds, start_endless, wait_busy

HELLO = [{"role": "user", "content": "Say hello"}]
COUNTS = {
    "/v1/messages/count_tokens": {"messages": HELLO},
    "/v1/responses/input_tokens": {"input": "Say hello"},
    "/extras/tokenize": {"input": "One, two, three"},
    "/extras/tokenize/count": {"input": "One, two, three"},
    "/extras/detokenize": {"tokens": [1, 2, 3]},
}


def count(backend, path):
    answer = backend.post(path, COUNTS[path])
    assert answer.status_code == 200, answer.text
    return answer.json()


def test_while_the_model_is_at_work(smollm2, engine):
    quiet = {path: count(smollm2, path) for path in COUNTS}
    # all slots are taken
    slots = smollm2.client.get("/health").json()["slots"]
    runs = [begin(smollm2, ENDLESS, f"runs{number}")[0] for number in range(slots)]
    while smollm2.client.get("/health").json()["running"] < slots:
        pass
    assert {path: count(smollm2, path) for path in COUNTS} == quiet
    assert smollm2.client.get("/health").json()["running"] == slots
    for number, run in enumerate(runs):
        smollm2.post(f"/cancel/runs{number}", {})
        run.join()
    assert smollm2.output == ""


def test_an_answer_is_the_same_with_many_counts_beside_it(smollm2):
    asked = {"temperature": 0, "max_tokens": 60, "content": "Count from one to twenty in words."}
    smollm2.chat(**asked)
    alone = smollm2.chat(**asked).json()["choices"]
    quiet = {path: count(smollm2, path) for path in COUNTS}
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        beside = pool.submit(smollm2.chat, **asked)
        counts = 0
        while not beside.done():
            for path, found in zip(COUNTS, pool.map(lambda path: count(smollm2, path), COUNTS), strict=True):
                assert found == quiet[path]
                counts += 1
    assert beside.result().json()["choices"] == alone
    assert counts >= len(COUNTS)
    assert smollm2.output == ""


LOOP = {"messages": [{"role": "user", "content": "loop"}]}


@pytest.mark.parametrize(
    "leaves", [True, pytest.param(False, marks=pytest.mark.engine("native"))], ids=["left", "waited for"]
)
def test_a_template_that_does_not_end_holds_nobody_up_and_no_core(start, models, tmp_path, engine, leaves):
    backend = start_endless(start, models, tmp_path)
    path, raw = "/v1/messages/count_tokens", json.dumps(LOOP)

    def ask():
        # more than may be counted at once
        if leaves:
            with pytest.raises(httpx.ReadTimeout):
                backend.client.post(path, content=raw, timeout=1)
        else:
            answer = backend.client.post(path, content=raw)
            assert (answer.status_code, answer.json()["error"]["type"]) == (400, "invalid_request_error")
            assert "template" in answer.json()["error"]["message"]

    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        asked = [pool.submit(ask) for _ in range(3 if leaves else 2)]
        # somebody else's answer goes on to its end
        assert backend.chat(max_tokens=20).status_code == 200
        for one in asked:
            one.result()
    if engine == "native":
        deadline = time.monotonic() + 60
        while "starts again" not in backend.output:
            assert time.monotonic() < deadline
            time.sleep(0.1)
    assert backend.post(path, {"messages": HELLO}).json()["input_tokens"] > 0
    assert backend.chat(max_tokens=1).status_code == 200
    wait_busy(backend, busy=False)
    before = cpu_seconds(backend)
    time.sleep(1)
    assert cpu_seconds(backend) - before < 0.5
