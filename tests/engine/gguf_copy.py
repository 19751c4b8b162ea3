"""Copies of a real model with another chat template: what a tiny model makes of a template is real output."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from pathlib import Path

KEY = b"tokenizer.chat_template"
SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
UINT32, STRING, ARRAY = 4, 8, 9


def with_template(
    source: Path, target: Path, template: str | None, numbers: Mapping[str, int] | None = None
) -> Path:
    """Writes a copy of the GGUF `source` whose chat template is `template`, None for its own, and whose
    metadata has some more numbers."""
    data = source.read_bytes()
    tensors, keys = struct.unpack_from("<QQ", data, 8)
    at, begin, end = 24, 0, 0
    for _ in range(keys):
        (length,) = struct.unpack_from("<Q", data, at)
        key = data[at + 8 : at + 8 + length]
        (kind,) = struct.unpack_from("<I", data, at + 8 + length)
        value = at + 12 + length
        at = skip(data, value, kind)
        if key == KEY:
            begin, end = value, at
    for _ in range(tensors):
        (length,) = struct.unpack_from("<Q", data, at)
        (dimensions,) = struct.unpack_from("<I", data, at + 8 + length)
        at += 8 + length + 4 + 8 * dimensions + 12
    text = data[begin + 8 : end] if template is None else template.encode()
    more = b"".join(
        struct.pack("<Q", len(key)) + key.encode() + struct.pack("<II", UINT32, number)
        for key, number in (numbers or {}).items()
    )
    head = data[:16] + struct.pack("<Q", keys + len(numbers or {})) + more + data[24:begin]
    head += struct.pack("<Q", len(text)) + text + data[end:at]
    target.write_bytes(head + bytes(-len(head) % 32) + data[at + -at % 32 :])
    return target


def skip(data: bytes, at: int, kind: int) -> int:
    """The place behind a value."""
    if kind == STRING:
        return at + 8 + struct.unpack_from("<Q", data, at)[0]
    if kind != ARRAY:
        return at + SIZES[kind]
    item, count = struct.unpack_from("<IQ", data, at)
    at += 12
    if item != STRING:
        return at + SIZES[item] * count
    for _ in range(count):
        at += 8 + struct.unpack_from("<Q", data, at)[0]
    return at
