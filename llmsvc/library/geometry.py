"""The shape of a model, as far as it decides how much memory a context takes, from its GGUF's metadata."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

MAX_LAYERS = 1024
PER_LAYER = (
    ".attention.head_count",
    ".attention.head_count_kv",
    ".attention.sliding_window_pattern",
    ".feed_forward_length",
)
"""Ends of the keys that may be one number or an array of one a layer."""
_PERIODS = {"gemma2": 2, "gemma3": 6, "gemma3n": 5, "cohere2": 4, "gpt-oss": 2}
"""Of so many layers the last one sees the whole context, where the file does not say so; as in llama.cpp."""


@dataclasses.dataclass(frozen=True)
class Geometry:
    """What of a model the context's memory depends on; 0 where the file is silent."""

    vocabulary: int
    """Tokens."""
    embedding: int
    """Width of the model."""
    feed_forward: int
    """Width of the widest feed-forward layer."""
    heads: int
    """Attention heads of the layer that has most."""
    key_values: int
    """Numbers that one token adds to the key cache, over all layers."""
    value_values: int
    """The same for the value cache."""
    layers: int = 0
    window: int = 0
    """Tokens that layers with a sliding window look back."""
    window_key_values: int = 0
    """The part of key_values that is of layers with a window."""
    window_value_values: int = 0


def read(values: Mapping[str, object], architecture: str, vocabulary: int) -> Geometry:
    """The geometry in the metadata; numbers that make no sense count as absent."""

    def number(key: str) -> int:
        return max(_numbers(values.get(f"{architecture}.{key}")), default=0)

    layers = min(number("block_count"), MAX_LAYERS)
    embedding, heads = number("embedding_length"), number("attention.head_count")
    head = embedding // heads if heads else 0
    of_layers = _numbers(values.get(f"{architecture}.attention.head_count_kv")) or (heads,)
    if len(of_layers) == 1:
        of_layers *= layers
    # the last layers of some models read the cache of earlier ones
    own = max(layers - number("attention.shared_kv_layers"), 0)
    of_layers = of_layers[:own]
    kv_heads = sum(of_layers)
    window = number("attention.sliding_window")
    pattern = values.get(f"{architecture}.attention.sliding_window_pattern", _PERIODS.get(architecture, 1))
    windowed = sum(heads for at, heads in enumerate(of_layers) if _slides(at, pattern)) if window else 0
    key, value = number("attention.key_length") or head, number("attention.value_length") or head
    return Geometry(
        vocabulary=vocabulary,
        embedding=embedding,
        feed_forward=number("feed_forward_length"),
        heads=heads,
        key_values=kv_heads * key,
        value_values=kv_heads * value,
        layers=layers,
        window=window,
        window_key_values=windowed * key,
        window_value_values=windowed * value,
    )


def _slides(layer: int, pattern: object) -> bool:
    """Whether a layer has a sliding window; the pattern is a period, or says it of each layer."""
    if isinstance(pattern, tuple):
        return bool(pattern) and bool(pattern[layer % len(pattern)])
    return type(pattern) is int and pattern > 1 and layer % pattern < pattern - 1


def _numbers(value: object) -> tuple[int, ...]:
    items = value if isinstance(value, tuple) else (value,)
    return tuple(item for item in items if type(item) is int and 0 <= item < 1 << 24)
