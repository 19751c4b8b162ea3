"""What ends, blocks or misleads a bare engine is refused or answered, and nobody else notices."""

from __future__ import annotations

import json

import pytest

from tests.engine.conftest import Backend
from tests.engine.killers import CASES, COMPLETIONS, Case

REFERENCE = {"prompt": "One, two, three,", "max_tokens": 1, "temperature": 0}


@pytest.fixture(scope="module")
def right(smollm2: Backend) -> str:
    """What a user gets before anything happened."""
    return str(smollm2.post(COMPLETIONS, REFERENCE).json()["choices"][0]["text"])


def _params() -> list[object]:
    return [
        pytest.param(
            case,
            id=f"{case.path.rpartition('/')[2]}: {case.name}",
            marks=[pytest.mark.engine(case.engine)] if case.engine else [],
        )
        for case in CASES
    ]


@pytest.mark.parametrize("case", _params())
def test_a_killer_is_refused_or_answered_and_the_next_user_gets_the_right_answer(
    smollm2: Backend, case: Case, right: str
) -> None:
    answer = smollm2.client.post(case.path, content=case.raw)
    assert answer.status_code == case.status, answer.text
    assert answer.elapsed.total_seconds() < 5
    if case.status == 200:
        assert case.check(answer.json()), answer.text
    else:
        error = answer.json()["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert (error["type"], error["code"]) == ("invalid_request_error", case.code)
        assert len(error["message"]) < 400
    if case.streams:
        check_stream(smollm2, case)
    assert smollm2.process.poll() is None
    assert smollm2.output == ""
    assert smollm2.post(COMPLETIONS, REFERENCE).json()["choices"][0]["text"] == right


def check_stream(backend: Backend, case: Case) -> None:
    """A stream is refused in the same way, before its headers, or ends as it is to."""
    raw = json.dumps({**json.loads(case.raw), "stream": True}).encode()
    answer = backend.client.post(case.path, content=raw)
    assert answer.status_code == case.status, answer.text
    if case.status != 200:
        assert answer.json()["error"]["code"] == case.code
        return
    *chunks, usage = backend.events(answer)
    assert chunks[-1]["choices"][0]["finish_reason"] in ("stop", "length", "tool_calls")
    assert usage["usage"]["completion_tokens"] > 0


def test_every_case_has_a_name_of_its_own() -> None:
    names = [(case.path, case.name) for case in CASES]
    assert len(set(names)) == len(names)
