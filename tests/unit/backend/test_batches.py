"""How long a batch may be."""

import pytest

from llmsvc.backend.llama_cpp_python.batches import SMALLEST, Batches


class Fake:
    """A Llama whose batches take a fixed time a token, and the first one a second more."""

    def __init__(self, seconds: float) -> None:
        self.n_batch = 512
        self.seconds = seconds
        self.batches: Batches | None = None
        self.cold = 1.0

    def token_bos(self) -> int:
        return -1

    def n_ctx(self) -> int:
        return 4096

    def reset(self) -> None:
        pass

    def eval(self, tokens: list[int]) -> None:
        assert tokens == [0] * len(tokens)
        assert 0 < len(tokens) <= self.n_batch
        self.batches.took(len(tokens) * self.seconds + self.cold)
        self.cold = 0.0


@pytest.mark.parametrize(
    ("milliseconds", "length"), [(0.5, 512), (1.4, 256), (2, 256), (5, 128), (30, SMALLEST), (500, SMALLEST)]
)
def test_a_batch_fits_into_its_time(milliseconds, length):
    llama = Fake(milliseconds / 1000)
    llama.batches = Batches(llama, bounded=True)
    llama.batches.fit()
    assert llama.n_batch == length


def test_a_batch_that_takes_longer_later_on_is_shortened_then():
    llama = Fake(0.001)
    llama.batches = Batches(llama, bounded=True)
    llama.batches.fit()
    llama.batches.took(0.5)
    llama.batches.adapt()
    assert llama.n_batch == 512
    llama.batches.took(1.5)
    llama.batches.took(0.1)
    llama.batches.adapt()
    assert llama.n_batch == 128
    llama.batches.adapt()
    assert llama.n_batch == 128
