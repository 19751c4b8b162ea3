"""A reranker of the architecture `bert` with random weights: its scores mean nothing, but are real output of
the real engine. No real reranker could be had where these tests were written."""

from __future__ import annotations

import random
import struct
from pathlib import Path

UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9
WIDTH, INNER, HEADS = 32, 64, 2
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
ROLES = {"padding": 0, "unknown": 1, "bos": 2, "cls": 2, "seperator": 3, "eos": 3, "mask": 4}
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789.,?!'-"
TOKENS = (*SPECIAL, *(f"▁{letter}" for letter in LETTERS), *LETTERS)
RANK = 4


def write(target: Path, *, head: bool = True, pooling: int | None = RANK, context: int = 256) -> Path:
    """Writes the GGUF.

    :param head: whether it has the tensors that make a score of what was read
    :param pooling: what its metadata says of its purpose; None for nothing
    """
    keys = [
        _text("general.architecture", "bert"),
        _text("general.name", "tiny reranker"),
        _uint32("bert.context_length", context),
        _uint32("bert.embedding_length", WIDTH),
        _uint32("bert.feed_forward_length", INNER),
        _uint32("bert.block_count", 1),
        _uint32("bert.attention.head_count", HEADS),
        _value("bert.attention.layer_norm_epsilon", FLOAT32, struct.pack("<f", 1e-5)),
        _value("bert.attention.causal", BOOL, b"\0"),
        *([] if pooling is None else [_uint32("bert.pooling_type", pooling)]),
        _text("tokenizer.ggml.model", "bert"),
        _array("tokenizer.ggml.tokens", STRING, [_string(token) for token in TOKENS]),
        _array(
            "tokenizer.ggml.token_type",
            INT32,
            [struct.pack("<i", 3 if token in SPECIAL else 1) for token in TOKENS],
        ),
        _uint32("tokenizer.ggml.token_type_count", 2),
        *(_uint32(f"tokenizer.ggml.{role}_token_id", token) for role, token in ROLES.items()),
    ]
    infos, data = [], b""
    for name, shape, values in _tensors(context, head=head):
        sizes = struct.pack(f"<I{len(shape)}Q", len(shape), *shape)
        infos.append(_string(name) + sizes + struct.pack("<IQ", 0, len(data)))
        data += _padded(struct.pack(f"<{len(values)}f", *values))
    counts = struct.pack("<IQQ", 3, len(infos), len(keys))
    target.write_bytes(_padded(b"GGUF" + counts + b"".join(keys) + b"".join(infos)) + data)
    return target


def _tensors(context: int, *, head: bool) -> list[tuple[str, tuple[int, ...], list[float]]]:
    numbers = random.Random(7)
    made: list[tuple[str, tuple[int, ...], list[float]]] = []

    def weight(name: str, *shape: int) -> None:
        count = shape[0] * (shape[1] if len(shape) > 1 else 1)
        made.append((name, shape, [numbers.gauss(0, 0.3) for _ in range(count)]))

    def linear(name: str, width: int, height: int) -> None:
        weight(f"{name}.weight", width, height)
        weight(f"{name}.bias", height)

    def norm(name: str) -> None:
        made.append((f"{name}.weight", (WIDTH,), [1.0] * WIDTH))
        weight(f"{name}.bias", WIDTH)

    weight("token_embd.weight", WIDTH, len(TOKENS))
    weight("position_embd.weight", WIDTH, context)
    weight("token_types.weight", WIDTH, 2)
    norm("token_embd_norm")
    for name in ("attn_q", "attn_k", "attn_v", "attn_output"):
        linear(f"blk.0.{name}", WIDTH, WIDTH)
    norm("blk.0.attn_output_norm")
    linear("blk.0.ffn_up", WIDTH, INNER)
    linear("blk.0.ffn_down", INNER, WIDTH)
    norm("blk.0.layer_output_norm")
    if head:
        linear("cls", WIDTH, WIDTH)
        linear("cls.output", WIDTH, 1)
    return made


def _string(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(key: str, kind: int, value: bytes) -> bytes:
    return _string(key) + struct.pack("<I", kind) + value


def _text(key: str, value: str) -> bytes:
    return _value(key, STRING, _string(value))


def _uint32(key: str, value: int) -> bytes:
    return _value(key, UINT32, struct.pack("<I", value))


def _array(key: str, kind: int, items: list[bytes]) -> bytes:
    return _value(key, ARRAY, struct.pack("<IQ", kind, len(items)) + b"".join(items))


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % 32)
