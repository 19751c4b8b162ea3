"""The estimate of memory against real backends."""

from __future__ import annotations

import pytest

from llmsvc.library import fit, gguf, memory, settings

SIZES = (512, 2048, 8192, 32768)


def measured_and_estimated(backend) -> tuple[int, fit.Estimate]:
    loaded = settings.load("m", backend.file)
    estimate = fit.estimate(loaded, gguf.read_header(loaded.model))
    return memory.resident(backend.process.pid), estimate


@pytest.mark.parametrize("model", ["smollm2", "gemma3"])
@pytest.mark.parametrize("n_ctx", SIZES)
def test_the_estimate_is_within_15_percent_of_the_running_backend(start, model, n_ctx, long, engine):
    if not long and (model, n_ctx) not in {("smollm2", 512), ("smollm2", 32768), ("gemma3", 8192)}:
        pytest.skip("a sample is enough")
    # so many tokens in all
    slots = {"llama-cpp-python": "", "native": f"SLOTS={1 if n_ctx < 2048 else 4}\n"}[engine]
    each = n_ctx // 4 if "4" in slots else n_ctx
    backend = start(f"MODEL={{models}}/{model}.gguf\nN_THREADS=1\nN_CTX={each}\n{slots}")
    backend.wait_for("READY=1")
    idle, estimate = measured_and_estimated(backend)
    assert backend.chat("word " * min(300, each // 2), max_tokens=2).status_code == 200
    used, _ = measured_and_estimated(backend)
    assert estimate.memory == pytest.approx(idle, rel=0.15)
    assert estimate.memory == pytest.approx(used, rel=0.15)


@pytest.mark.engine("llama-cpp-python")  # the other one has most of it at the start
@pytest.mark.parametrize("text", ["", "FLASH_ATTN=1\nTYPE_K=q8_0\nTYPE_V=q8_0\n"], ids=["plain", "quantized"])
def test_what_is_needed_is_what_the_whole_context_takes(start, text, long):
    if text and not long:
        pytest.skip("slow on a CPU")
    backend = start(f"MODEL={{models}}/smollm2.gguf\nN_THREADS=1\nN_CTX=2048\n{text}")
    backend.client.timeout = 300
    backend.wait_for("READY=1")
    assert backend.chat("word " * 1950, max_tokens=2).status_code == 200
    full, estimate = measured_and_estimated(backend)
    assert estimate.needed == pytest.approx(full, rel=0.1)
