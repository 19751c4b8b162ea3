"""Builds small GGUF files: right ones, and ones that are wrong in just one way."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence

U32, F32, STRING, ARRAY = 4, 6, 8, 9
Value = int | float | str | list[str] | list[int]

META: dict[str, Value] = {
    "general.architecture": "llama",
    "general.name": "Tiny",
    "general.file_type": 15,
    "llama.context_length": 2048,
    "llama.block_count": 2,
    "llama.rope.freq_base": 10000.0,
    "tokenizer.ggml.tokens": ["<s>", "a", "longer token", ""],
    "tokenizer.ggml.token_type": [1, 1, 1, 3],
    "tokenizer.chat_template": "{% for m in messages %}" * 40,
}
TENSORS = (("token_embd.weight", (256, 4), 12), ("output_norm.weight", (256,), 0))
"""Name, shape and ggml type; 4 blocks of Q4_K and 256 floats."""
_SIZES = {0: (1, 4), 12: (256, 144)}


def text(value: str) -> bytes:
    raw = value.encode()
    return struct.pack("<Q", len(raw)) + raw


def typed(value: Value) -> bytes:
    if isinstance(value, str):
        return struct.pack("<I", STRING) + text(value)
    if isinstance(value, float):
        return struct.pack("<If", F32, value)
    if isinstance(value, int):
        return struct.pack("<II", U32, value)
    if value and isinstance(value[0], str):
        return struct.pack("<IIQ", ARRAY, STRING, len(value)) + b"".join(text(str(v)) for v in value)
    return struct.pack("<IIQ", ARRAY, U32, len(value)) + struct.pack(f"<{len(value)}I", *value)


def gguf(
    meta: Mapping[str, Value] = META,
    tensors: Sequence[tuple[str, tuple[int, ...], int]] = TENSORS,
    *,
    version: int = 3,
    data: bytes | None = None,
) -> bytes:
    """A GGUF; its tensors' data are zeros, as many as needed unless `data` is given."""
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(meta))
    head += b"".join(text(key) + typed(value) for key, value in meta.items())
    offset = 0
    for name, shape, kind in tensors:
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)
        block, size = _SIZES.get(kind, (1, 4))
        elements = 1
        for length in shape:
            elements *= length
        offset += -(-elements // block * size // 32) * 32
    head += bytes(-len(head) % 32)
    return head + (bytes(offset) if data is None else data)
