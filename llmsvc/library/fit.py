"""Whether a model fits into memory: an estimate from its header and settings against what is free.

The constants were measured with llama-cpp-python 0.3.36 and xllamacpp 2026.10.11549; tests/engine/test_fit.py
compares with processes. llama-cpp-python keeps the whole context for all layers, also those with a sliding
window (swa_full).
"""

from __future__ import annotations

import dataclasses

from llmsvc.errors import Error
from llmsvc.library import gguf, memory
from llmsvc.library.progress import size
from llmsvc.library.settings import DEFAULT_N_CTX, NATIVE_CPU_BATCH, ModelSettings

_PROGRAM = 87_000_000
"""Bytes of a backend without a model: Python, its modules and llama.cpp."""
_PROGRAM_NATIVE = 98_000_000
"""The same of both its processes."""
_PER_TOKEN_OF_VOCABULARY = 150
_TYPICAL_TOKENS = 768
"""Tokens of a request that `memory` is told for."""
_CUDA = 400_000_000
"""Bytes that CUDA takes for itself, on the GPU and in the process."""
_F16 = 1
_STEP = 256
"""llama.cpp rounds a context up to this many tokens."""


@dataclasses.dataclass(frozen=True)
class Estimate:
    """Bytes that a model takes with a context of n_ctx tokens."""

    n_ctx: int
    memory: int
    """What its process has resident soon after its start, mapped weights included."""
    needed: int
    """What must be free in RAM for it to work with the whole context in use."""
    needed_gpu: int
    """The same on GPUs; 0 where it uses none."""
    weights: int
    cache: int
    """Keys and values of the context."""

    def __str__(self) -> str:
        work = max(self.needed + self.needed_gpu - self.weights - self.cache, 0)
        return f"{size(self.weights)} weights, {size(self.cache)} context, {size(work)} to work with"


class FitError(Error):
    """A model does not fit into the memory that is free now."""


def context(settings: ModelSettings, header: gguf.Header) -> int:
    """Tokens of context that the model will start with."""
    trained = header.context_length or DEFAULT_N_CTX
    wanted: int | None = settings["N_CTX"]
    return min(trained, DEFAULT_N_CTX) if wanted is None else wanted or trained


def estimate(settings: ModelSettings, header: gguf.Header, n_ctx: int | None = None) -> Estimate:
    """What the model takes.

    :param n_ctx: instead of that of the settings
    """
    shape = header.geometry
    n_ctx = -(-(n_ctx or context(settings, header)) // _STEP) * _STEP
    batch = min(_batch(settings, header, n_ctx), n_ctx)
    cache = _cache(settings, header, n_ctx) * settings.slots
    # the native engine takes it wherever it can
    flash = settings["FLASH_ATTN"] or (_native(settings) and "FLASH_ATTN" not in settings.lines)

    def work(tokens: int) -> int:
        """Intermediate results of one batch that sees so many tokens: activations, mask, and the attention
        scores as f32 and as f16."""
        per_token = 4 if flash else 4 + (4 + 2) * shape.heads
        return batch * (4 * (2 * shape.feed_forward + 6 * shape.embedding) + per_token * tokens)

    logits = 4 * shape.vocabulary * (n_ctx + batch) if settings["LOGITS_ALL"] else 0
    program = (
        _PROGRAM_NATIVE if _native(settings) else _PROGRAM
    ) + _PER_TOKEN_OF_VOCABULARY * shape.vocabulary
    share = memory.gpu_share(settings, header)
    on_gpu = round(share * header.size)
    cache_on_gpu = round(share * cache) if settings["OFFLOAD_KQV"] else 0
    needed_gpu = 0
    if share:
        program += _CUDA
        # a GPU's buffers are taken whole at the start, for the largest batch with all its logits
        reserved = max(work(n_ctx), 4 * batch * shape.vocabulary)
        needed_gpu = on_gpu + cache_on_gpu + reserved + _CUDA
    in_ram = program + header.size - on_gpu + cache - cache_on_gpu
    # the copies stand beside the mapped originals, which the kernel drops when memory gets short
    copies = header.repacked if settings["USE_MMAP"] and not share else 0
    return Estimate(
        n_ctx=n_ctx,
        memory=in_ram + copies + (0 if share else work(min(n_ctx, _TYPICAL_TOKENS))),
        needed=in_ram + (0 if share else work(n_ctx)) + logits,
        needed_gpu=needed_gpu,
        weights=header.size,
        cache=cache,
    )


def _native(settings: ModelSettings) -> bool:
    return bool(settings["ENGINE"] == "native")


def _batch(settings: ModelSettings, header: gguf.Header, n_ctx: int) -> int:
    """Tokens that are computed at once, as the engines set them."""
    keys = ("N_BATCH", "N_UBATCH")
    small = _native(settings) and "N_BATCH" not in settings.lines and not settings.only_reads
    if small and not memory.gpu_share(settings, header):
        return max(NATIVE_CPU_BATCH, settings.slots)
    return min(n_ctx if settings.only_reads and k not in settings.lines else settings[k] for k in keys)


def _cache(settings: ModelSettings, header: gguf.Header, n_ctx: int) -> int:
    total, shape, seen = 0.0, header.geometry, n_ctx
    if _native(settings) and not settings["SWA_FULL"] and shape.window:
        seen = min(n_ctx, -(-(shape.window + _batch(settings, header, n_ctx)) // _STEP) * _STEP)
    for key, values, windowed in (
        ("TYPE_K", shape.key_values, shape.window_key_values),
        ("TYPE_V", shape.value_values, shape.window_value_values),
    ):
        kind = settings[key]
        per_block, block_bytes = gguf.BLOCKS[_F16 if kind is None else kind]
        total += (n_ctx * (values - windowed) + seen * windowed) * block_bytes / per_block
    return round(total)


def fits(wanted: Estimate, room: memory.Room) -> bool:
    """Whether there is room for it."""
    return wanted.needed <= room.free and (room.gpu is None or wanted.needed_gpu <= room.gpu)


def largest_context(settings: ModelSettings, header: gguf.Header, room: memory.Room) -> int | None:
    """The largest N_CTX that fits, in steps of 256 up to what is set or trained; None if none does."""
    most = context(settings, header)
    low, high = 0, -(-min(most, header.context_length or most) // _STEP)
    while low < high:
        middle = (low + high + 1) // 2
        if fits(estimate(settings, header, middle * _STEP), room):
            low = middle
        else:
            high = middle - 1
    return low * _STEP or None


def check(settings: ModelSettings, header: gguf.Header, room: memory.Room) -> None:
    """:raises FitError: it does not fit: with the numbers, who holds the rest, and the context that would"""
    wanted = estimate(settings, header)
    if fits(wanted, room):
        return
    on_gpu = wanted.needed <= room.free
    needed, free = (wanted.needed_gpu, room.gpu or 0) if on_gpu else (wanted.needed, room.free)
    where = "GPU memory" if on_gpu else "memory"
    kept = room.limit if not on_gpu and room.limit else "is free"
    largest = largest_context(settings, header, room)
    advice = [
        f"N_CTX={largest} in {settings.file} would fit"
        if largest
        else "no context fits: a smaller model or quantization is needed"
    ]
    if not on_gpu and not room.limit:
        advice += [f"much memory is held by {', '.join(map(str, room.holders))}"] if room.holders else []
    raise FitError(
        f"{settings.name} does not fit: it needs {size(needed)} of {where} with N_CTX={wanted.n_ctx} "
        f"({wanted}), and {size(free)} {kept}"
        + (f" once {room.running} has stopped" if room.running else ""),
        hint="; ".join(advice),
        details={
            "needed": needed,
            "free": free,
            "n_ctx": wanted.n_ctx,
            "largest_n_ctx": largest,
            "holders": [dataclasses.asdict(holder) for holder in room.holders],
        },
    )
