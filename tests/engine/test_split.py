"""A model of several files, as the library keeps it, in the real engine."""

from __future__ import annotations

import pytest

from llmsvc.library import fit, gguf, memory, settings
from tests.unit.library.splits import split


@pytest.mark.parametrize("empty_first", [False, True], ids=["tensors in all", "no tensors in the first"])
def test_a_split_model_answers_as_the_whole_one(start, smollm2, models, tmp_path, empty_first, long):
    if empty_first and not long:
        pytest.skip("one is enough")
    parts = split(models / "smollm2.gguf", tmp_path, "smollm2", 3, empty_first=empty_first)
    whole, header = gguf.read_header(models / "smollm2.gguf"), gguf.read_header(parts[0])
    assert (header.parameters, header.geometry) == (whole.parameters, whole.geometry)
    backend = start(f"MODEL={parts[0]}\nN_THREADS=1\nN_CTX=512\n")
    backend.wait_for("READY=1")
    answers = [
        one.chat("Count to five", seed=1, temperature=0).json()["choices"][0]["message"]
        for one in (backend, smollm2)
    ]
    assert answers[0] == answers[1]
    estimate = fit.estimate(settings.load("m", backend.file), header)
    assert memory.resident(backend.process.pid) == pytest.approx(estimate.memory, rel=0.15)
