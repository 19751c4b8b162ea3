"""How large a new model's context is to be, and how much of it goes onto the GPU, from what fits.

What a model takes is fit.py's estimate; memory.room() says what there is. A model that does not fit *now*,
because others hold the memory, is installed all the same; one that never can is refused.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from llmsvc import env
from llmsvc.library import catalogue, fit, gguf, memory, settings
from llmsvc.library.progress import size
from llmsvc.library.settings import ModelSettings

MOST = 32768
"""Tokens of context that a new model gets at most: more takes memory at once, and is the admin's choice."""
MOST_EMBEDDING = 4096
"""The same for embeddings: a text is one batch, and its memory grows with the square of its length."""
AGENTS = 16384
"""What coding agents need at least: their instructions alone fill most of a smaller one."""
GOOD = 8192
"""With so many on the GPU, all layers go there rather than fewer for the sake of a larger context."""
LEAST = 2048
"""With fewer a model is of no use."""
_MARGIN = 0.9
"""The part of what is free now that is planned for: the rest is for what comes and goes."""


@dataclasses.dataclass(frozen=True)
class Sizing:
    """What a new model gets. `n_gpu_layers` is None for the default: all where there is a GPU.

    :ivar needed: bytes that it takes so, in RAM and on GPUs
    :ivar notes: what people should know, one sentence each
    """

    n_ctx: int
    n_gpu_layers: int | None = None
    needed: int = 0
    fits: bool = True
    notes: tuple[str, ...] = ()


def choose(
    name: str,
    header: gguf.Header,
    room: memory.Room,
    *,
    entry: catalogue.Entry | None = None,
    force: bool = False,
) -> Sizing:
    """Chooses what fits.

    :param entry: of the catalogue, for the quantizations that would fit
    :param force: do not refuse
    :raises FitError: it can never fit on this machine: with the numbers and what would
    """
    most = min(header.context_length or settings.DEFAULT_N_CTX, MOST_EMBEDDING if header.only_reads else MOST)
    least = min(most, LEAST)
    now = _largest(name, header, most, _reduced(room, _MARGIN)) or _largest(name, header, least, room)
    if now:
        return _told(name, header, room, most, *now, fits=True)
    ever = dataclasses.replace(room, free=room.total or room.free, gpu=room.gpu_total)
    if _largest(name, header, least, ever) is None and not force:
        raise _refusal(name, header, ever, least, entry)
    return _told(name, header, room, most, least, None, fits=False)


def wanted(
    name: str, n_ctx: int, n_gpu_layers: int | None = None, *, only_reads: bool = False
) -> ModelSettings:
    """The settings of a model that is not there yet."""
    text = f"MODEL=/{name}.gguf\nN_CTX={n_ctx}\nEMBEDDING={int(only_reads)}\n"
    text += "" if n_gpu_layers is None else f"N_GPU_LAYERS={n_gpu_layers}\n"
    file = Path(f"{name}.env")
    return settings.parse(name, env.parse(text, file), file)


def _largest(name: str, header: gguf.Header, most: int, room: memory.Room) -> tuple[int, int | None] | None:
    """The largest context that fits, and the layers that then go to the GPU; None if none is large enough."""
    least = min(most, LEAST)
    whole = _largest_context(name, header, most, None, room)
    on_gpu = memory.gpu_share(wanted(name, most), header) > 0
    if not on_gpu or room.gpu is None or whole >= min(most, GOOD):
        return (whole, None) if whole >= least else None
    n_ctx = min(most, GOOD)
    # the output counts as one more layer
    for layers in range(header.block_count or 0, -1, -1):
        if _fits(name, header, n_ctx, layers, room):
            return n_ctx, layers
    return None


def _largest_context(name: str, header: gguf.Header, most: int, layers: int | None, room: memory.Room) -> int:
    model = wanted(name, most, layers, only_reads=header.only_reads)
    n_ctx = fit.largest_context(model, header, room) or 0
    return min(n_ctx // 1024 * 1024 if n_ctx > 1024 else n_ctx, most)


def _fits(name: str, header: gguf.Header, n_ctx: int, layers: int | None, room: memory.Room) -> bool:
    return fit.fits(fit.estimate(wanted(name, n_ctx, layers, only_reads=header.only_reads), header), room)


def _reduced(room: memory.Room, share: float) -> memory.Room:
    gpu = None if room.gpu is None else int(room.gpu * share)
    return dataclasses.replace(room, free=int(room.free * share), gpu=gpu)


def _told(
    name: str,
    header: gguf.Header,
    room: memory.Room,
    most: int,
    n_ctx: int,
    layers: int | None,
    *,
    fits: bool,
) -> Sizing:
    estimate = fit.estimate(wanted(name, n_ctx, layers, only_reads=header.only_reads), header)
    notes = []
    if not fits:
        held = f", much is held by {', '.join(map(str, room.holders))}" if room.holders else ""
        notes.append(
            f"it does not fit now: it needs {size(estimate.needed + estimate.needed_gpu)} "
            f"and {size(room.free)} {room.limit or 'is free'}{held}"
        )
    elif n_ctx < most:
        notes.append(f"its context is {n_ctx} tokens, what fits into memory, of {most} that it could have")
    if n_ctx < AGENTS and not header.only_reads:
        why = "was trained for no more" if most < AGENTS else "N_CTX is smaller"
        notes.append(f"coding agents will fail: they need a context of {AGENTS} tokens, and it {why}")
    if header.ranks:
        notes.append("it is a reranker: ENGINE=native runs it, and POST /v1/rerank is all that it answers")
    if layers is not None:
        notes.append(f"{layers} of {(header.block_count or 0) + 1} layers fit onto the GPU")
    return Sizing(n_ctx, layers, estimate.needed + estimate.needed_gpu, fits, tuple(notes))


def _refusal(
    name: str, header: gguf.Header, ever: memory.Room, least: int, entry: catalogue.Entry | None
) -> fit.FitError:
    estimate = fit.estimate(wanted(name, least, only_reads=header.only_reads), header)
    smaller = largest_quantization(entry, ever) if entry else None
    largest = fit.largest_context(wanted(name, least, only_reads=header.only_reads), header, ever)
    has = ever.limit or f"is all that this machine has{'' if ever.gpu is None else ' beside its GPU'}"
    on_gpu = f" and {size(estimate.needed_gpu)} on the GPU" if estimate.needed_gpu else ""
    advice = []
    if smaller:
        advice.append(f"{smaller} would fit")
    elif largest:
        advice.append(f"a context of {largest} tokens would fit")
    else:
        advice.append("a smaller model or quantization is needed: 'llmsvc model catalog --fits'")
    advice.append("--force installs it all the same")
    return fit.FitError(
        f"{name} can never fit: with only {least} tokens of context it needs {size(estimate.needed)} of "
        f"memory{on_gpu} ({estimate}), and {size(ever.free)} {has}",
        hint="; ".join(advice),
        details={
            "needed": estimate.needed,
            "needed_gpu": estimate.needed_gpu,
            "total": ever.free,
            "n_ctx": least,
            "largest_n_ctx": largest,
            "quantization": smaller,
        },
    )


# ---------------------------------------------------------------------------------------------------------
# Models of the catalogue


def header_of(entry: catalogue.Entry, file: catalogue.File) -> gguf.Header:
    """As much of the header of a model that is not there as the catalogue knows."""
    return gguf.Header(
        size=file.size,
        version=3,
        architecture="",
        name=entry.title,
        quantization=file.quantization,
        context_length=entry.context,
        block_count=entry.shape.layers if entry.shape else None,
        parameters=0,
        has_chat_template=True,
        embeds=entry.embedding,
        ranks=False,
        can_rank=False,
        geometry=entry.shape or gguf.NO_GEOMETRY,
        repacked=0,
    )


def of_catalogue(entry: catalogue.Entry, file: catalogue.File, room: memory.Room) -> Sizing | None:
    """What a model of the catalogue would get; None if it does not fit now."""
    try:
        sizing = choose(entry.name, header_of(entry, file), room, force=True)
    except fit.FitError:
        return None
    return sizing if sizing.fits else None


def largest_quantization(entry: catalogue.Entry, room: memory.Room) -> str | None:
    """The largest one that fits, as NAME:QUANTIZATION."""
    for file in reversed(entry.files.values()):
        if of_catalogue(entry, file, room):
            return f"{entry.name}:{file.quantization.lower()}"
    return None
