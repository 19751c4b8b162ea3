"""Keeps a batch of a prompt so short that a cancelled request frees the model within a second.

On the CPU llama.cpp can be interrupted within a batch; on a GPU only between two.
"""

from __future__ import annotations

from typing import Any

MAX_SECONDS = 0.7
"""What one batch may take."""
SMALLEST = 16


class Batches:
    """Measures batches and lowers `n_batch`, the tokens of a prompt that are read at once.

    :param llama: the Llama, whose `n_batch` it sets
    :param bounded: whether a batch must be short; else nothing is measured
    """

    def __init__(self, llama: Any, *, bounded: bool) -> None:
        self._llama = llama
        self._bounded = bounded
        self._slowest = 0.0

    def took(self, seconds: float) -> None:
        """One batch took so long."""
        if self._bounded and seconds > self._slowest:
            self._slowest = seconds

    def fit(self) -> None:
        """Reads full batches, of which nothing remains, until one is short enough.

        The first one only warms up: the driver compiles and allocates in it.
        """
        if not self._bounded:
            return
        token = max(self._llama.token_bos(), 0)
        tokens = [token] * min(self._llama.n_batch, self._llama.n_ctx() - 1)
        self._llama.reset()
        self._llama.eval(tokens)
        while True:
            size = self._llama.n_batch
            self._slowest = 0.0
            self._llama.reset()
            self._llama.eval(tokens[:size])
            self.adapt()
            if self._llama.n_batch == size:
                break
        self._llama.reset()

    def adapt(self) -> None:
        """Lowers n_batch if a batch took too long since the last look; between two requests only.

        Batches take longer the fuller the context is, so that the one of the self-test may prove too long.
        """
        if self._slowest > MAX_SECONDS:
            fitting = int(self._llama.n_batch * MAX_SECONDS / self._slowest)
            self._llama.n_batch = max(SMALLEST, 1 << (fitting.bit_length() - 1)) if fitting else SMALLEST
        self._slowest = 0.0
