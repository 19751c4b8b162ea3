"""Splits a GGUF as llama-gguf-split does: all metadata in the first part, each tensor in one of them."""

from __future__ import annotations

import struct
from pathlib import Path

from tests.unit.library.ggufs import text

_SCALAR = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}
_STRING, _ARRAY = 8, 9
_ALIGNMENT = 32


class _At:
    def __init__(self, data: bytes, at: int) -> None:
        self.data, self.at = data, at

    def number(self, code: str) -> int:
        (value,) = struct.unpack_from(f"<{code}", self.data, self.at)
        self.at += struct.calcsize(f"<{code}")
        return int(value)

    def string(self) -> bytes:
        length = self.number("Q")
        self.at += length
        return self.data[self.at - length : self.at]

    def skip(self, kind: int) -> None:
        if kind == _STRING:
            self.string()
        elif kind == _ARRAY:
            item, count = self.number("I"), self.number("Q")
            if item in _SCALAR:
                self.at += count * _SCALAR[item]
            else:
                for _ in range(count):
                    self.skip(item)
        else:
            self.at += _SCALAR[kind]


def split(file: Path, directory: Path, name: str, count: int, *, empty_first: bool = False) -> list[Path]:
    """Writes NAME-00001-of-0000N.gguf and its siblings; `empty_first`: the first part has no tensors."""
    data = file.read_bytes()
    at = _At(data, 8)
    tensors, keys = at.number("Q"), at.number("Q")
    begin = at.at
    for _ in range(keys):
        at.string()
        at.skip(at.number("I"))
    metadata = data[begin : at.at]
    described = []
    for _ in range(tensors):
        start = at.at
        at.string()
        dimensions = at.number("I")
        at.at += 8 * dimensions + 4
        described.append((data[start : at.at], at.number("Q")))
    start = -(-at.at // _ALIGNMENT) * _ALIGNMENT
    ends = [*sorted(offset for _, offset in described)[1:], len(data) - start]
    following = dict(zip(sorted(offset for _, offset in described), ends, strict=True))
    shares: list[list[tuple[bytes, int]]] = [[] for _ in range(count)]
    for number, one in enumerate(described):
        place = number * (count - empty_first) // len(described) + empty_first
        shares[place].append(one)
    files = []
    for number, share in enumerate(shares):
        own = {"split.no": (2, "H", number), "split.count": (2, "H", count)}
        own["split.tensors.count"] = (5, "i", tensors)
        head = metadata if number == 0 else b""
        head += b"".join(
            text(key) + struct.pack(f"<I{code}", kind, v) for key, (kind, code, v) in own.items()
        )
        out = b"GGUF" + struct.pack("<IQQ", 3, len(share), (keys if number == 0 else 0) + len(own)) + head
        body = b""
        for description, offset in share:
            out += description + struct.pack("<Q", len(body))
            piece = data[start + offset : start + following[offset]]
            body += piece + bytes(-len(piece) % _ALIGNMENT)
        out += bytes(-len(out) % _ALIGNMENT)
        files.append(directory / f"{name}-{number + 1:05d}-of-{count:05d}.gguf")
        files[-1].write_bytes(out + body)
    return files
