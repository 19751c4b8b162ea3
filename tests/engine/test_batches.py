"""Where a batch cannot be interrupted it is made short: on a GPU, here with a CPU that is treated as one."""

import time

import llama_cpp
import pytest

from llmsvc.backend.llama_cpp_python import batches


@pytest.fixture
def llama(models):
    model = llama_cpp.Llama(
        str(models / "smollm2.gguf"), n_ctx=256, n_batch=128, n_threads=1, n_threads_batch=1, verbose=False
    )
    yield model
    model.close()


def measured(llama, bounded):
    made = batches.Batches(llama, bounded=bounded)
    decode = llama._ctx.decode

    def timed(batch):
        begun = time.monotonic()
        decode(batch)
        made.took(time.monotonic() - begun)

    llama._ctx.decode = timed
    return made


def test_a_batch_that_takes_too_long_at_the_self_test_is_made_shorter(llama, monkeypatch):
    monkeypatch.setattr(batches, "MAX_SECONDS", 0.1)
    made = measured(llama, bounded=True)
    made.fit()
    assert batches.SMALLEST <= llama.n_batch < 128
    assert llama.n_tokens == 0
    answer = llama.create_completion("One, two, three, " * 20, max_tokens=2)
    assert answer["usage"]["completion_tokens"] == 2


def test_on_the_cpu_alone_it_is_left_alone(llama):
    made = measured(llama, bounded=False)
    made.fit()
    made.took(100)
    made.adapt()
    assert llama.n_batch == 128
