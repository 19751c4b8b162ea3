"""A request takes no token more than its budget, and ends well when it has had its time."""

import json

import pytest

from tests.engine.test_cancel import ENDLESS, begin

HELLO = {"prompt": "One two three", "logit_bias": ENDLESS["logit_bias"]}


def completion(backend, budget, **more):
    return backend.post("/v1/completions", {**HELLO, **more}, **{"x-token-budget": str(budget)})


def test_a_budget_bounds_prompt_and_answer_together(smollm2):
    prompt = completion(smollm2, 4096, max_tokens=1).json()["usage"]["prompt_tokens"]
    answer = completion(smollm2, prompt + 5, max_tokens=100).json()
    assert answer["usage"]["total_tokens"] == prompt + 5
    assert answer["choices"][0]["finish_reason"] == "length"
    assert completion(smollm2, prompt + 50, max_tokens=3).json()["usage"]["completion_tokens"] == 3


@pytest.mark.parametrize("stream", [False, True])
def test_a_prompt_that_leaves_no_room_is_refused_with_its_tokens(smollm2, stream):
    prompt = completion(smollm2, 4096, max_tokens=1).json()["usage"]["prompt_tokens"]
    answer = completion(smollm2, prompt, max_tokens=1, stream=stream)
    assert answer.status_code == 429
    assert answer.json()["error"]["code"] == "token_budget_exceeded"
    assert answer.json()["usage"] == {"prompt_tokens": prompt, "completion_tokens": 0, "total_tokens": prompt}


@pytest.mark.parametrize("stream", [False, True])
def test_a_request_that_is_told_to_finish_ends_as_at_max_tokens(smollm2, stream):
    request_id = f"finish-{stream}"
    worker, answers = begin(smollm2, {**ENDLESS, "stream": stream}, request_id)
    assert smollm2.post(f"/finish/{request_id}", {}).status_code == 200
    worker.join()
    assert answers[0].status_code == 200
    if stream:
        events = [line[6:] for line in answers[0].text.splitlines() if line.startswith("data: ")]
        assert events[-1] == "[DONE]"
        chunks = [json.loads(event) for event in events[:-1]]
    else:
        chunks = [answers[0].json()]
    reasons = [choice["finish_reason"] for chunk in chunks for choice in chunk["choices"]]
    assert reasons[-1] == "length"
    assert 0 < chunks[-1]["usage"]["completion_tokens"] < ENDLESS["max_tokens"]


def test_finishing_what_is_not_there_is_404(smollm2):
    assert smollm2.post("/finish/nobody", {}).status_code == 404
