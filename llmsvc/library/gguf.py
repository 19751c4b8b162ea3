"""Reads the header of a GGUF file. A reader of our own, for a file may come from anywhere: it never reads,
keeps or computes more than the bounds below, whatever the file claims, and it notices a truncated file.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Magic, version, two counts; then that
many `key type value`; then that many tensor descriptions; then, aligned, the tensors' data.
"""

from __future__ import annotations

import dataclasses
import os
import re
import stat
import struct
from pathlib import Path
from typing import BinaryIO

from llmsvc.errors import ModelError
from llmsvc.library import geometry
from llmsvc.library.geometry import Geometry

MAX_KEYS = 16384
MAX_TENSORS = 65536
MAX_ITEMS = 1 << 22
"""Strings in all arrays together; a large vocabulary with its merges has about a million."""
MAX_TEXT = 256
"""Bytes of a key or text that are kept."""
_WINDOW = 1 << 20
_STRING, _ARRAY = 8, 9
_SCALARS = {
    number: struct.Struct("<" + code)
    for number, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")

BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18),
}  # fmt: skip
"""(elements in a block, bytes of a block) by ggml's type number: ggml.c, type_traits."""
_REPACKED = {2, 12, 20}
"""Types that llama.cpp copies into another order for the CPU: ggml-cpu/repack.cpp, for AVX2."""

# general.file_type: llama.h, enum llama_ftype.
_QUANTIZATIONS = {
    0: "F32", 1: "F16", 2: "Q4_0", 3: "Q4_1", 7: "Q8_0", 8: "Q5_0", 9: "Q5_1", 10: "Q2_K", 11: "Q3_K_S",
    12: "Q3_K_M", 13: "Q3_K_L", 14: "Q4_K_S", 15: "Q4_K_M", 16: "Q5_K_S", 17: "Q5_K_M", 18: "Q6_K",
    19: "IQ2_XXS", 20: "IQ2_XS", 21: "Q2_K_S", 22: "IQ3_XS", 23: "IQ3_XXS", 24: "IQ1_S", 25: "IQ4_NL",
    26: "IQ3_S", 27: "IQ3_M", 28: "IQ2_S", 29: "IQ2_M", 30: "IQ4_XS", 31: "IQ1_M", 32: "BF16",
    36: "TQ1_0", 37: "TQ2_0", 38: "MXFP4", 39: "NVFP4", 40: "Q1_0", 41: "Q2_0",
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Header:
    """What a GGUF says about itself; None where it is silent. Texts are printable and short."""

    size: int
    """Bytes of the file."""
    version: int
    architecture: str
    name: str | None
    quantization: str | None
    """As llama.cpp names it, `Q4_K_M`."""
    context_length: int | None
    """Tokens that the model was trained for."""
    block_count: int | None
    """Layers."""
    parameters: int
    """Weights, counted over the tensors."""
    has_chat_template: bool
    geometry: Geometry
    repacked: int
    """Bytes of the tensors that llama.cpp copies on a CPU, beside the file that it maps."""


class _BrokenError(Exception):
    """What is wrong with the file, as the end of a sentence that begins with its path."""


def read_header(file: Path) -> Header:
    """Reads and checks the header of a complete model file; at most a few MiB of memory.

    :raises ModelError: absent, unreadable, not a GGUF, broken, truncated, or not a model of its own
    """
    try:
        # Without O_NONBLOCK the open of a FIFO would wait for a writer.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise _BrokenError("is not a regular file")
            return _header(_Reader(stream, status.st_size))
    except _BrokenError as error:
        raise ModelError(str(error), file=file, hint="fetch or copy the file again") from None
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", file=file) from None


class _Reader:
    """A window that moves over the file; all reads are checked against the file's length."""

    def __init__(self, stream: BinaryIO, size: int) -> None:
        self.size = size
        self.items_left = MAX_ITEMS
        self._stream = stream
        self._data = b""
        self._start = 0
        self._at = 0

    @property
    def position(self) -> int:
        return self._start + self._at

    def take(self, count: int) -> bytes:
        """The next `count` bytes, count at most _WINDOW."""
        if self._at + count > len(self._data):
            if self.position + count > self.size:
                raise _BrokenError("is truncated: it ends within its header")
            self._load(self.position)
            if len(self._data) < count:
                raise _BrokenError("changed while it was read")
        data = self._data[self._at : self._at + count]
        self._at += count
        return data

    def skip(self, count: int) -> None:
        if self.position + count > self.size:
            raise _BrokenError("is truncated: it ends within its header")
        self._at += count
        if self._at > len(self._data):
            self._load(self.position)

    def u32(self) -> int:
        return int(_U32.unpack(self.take(4))[0])

    def u64(self) -> int:
        return int(_U64.unpack(self.take(8))[0])

    def text(self) -> str:
        """A string, cut to MAX_TEXT bytes."""
        length = self.u64()
        kept = self.take(min(length, MAX_TEXT)).decode("utf-8", "replace")
        self.skip(length - min(length, MAX_TEXT))
        return kept

    def skip_strings(self, count: int) -> None:
        self.items_left -= count
        if self.items_left < 0:
            raise _BrokenError(f"claims more than {MAX_ITEMS} strings")
        while count:
            data, at, end = self._data, self._at, len(self._data) - 8
            # The one hot loop: a vocabulary has hundreds of thousands of strings.
            while count and at <= end:
                at += 8 + _U64.unpack_from(data, at)[0]
                count -= 1
            self._at = 0
            self.skip(at)
            if count and self._at + 8 > len(self._data):
                self.take(8)
                self._at -= 8

    def _load(self, position: int) -> None:
        self._stream.seek(position)
        self._data = self._stream.read(_WINDOW) or b""
        self._start = position
        self._at = 0


def _header(reader: _Reader) -> Header:
    if reader.size < 24:
        raise _BrokenError("is not a GGUF file" if reader.size else "is empty")
    if reader.take(4) != b"GGUF":
        raise _BrokenError("is not a GGUF file")
    version = reader.u32()
    if version not in (2, 3):
        raise _BrokenError(f"is GGUF version {version}; versions 2 and 3 are supported")
    tensors, keys = reader.u64(), reader.u64()
    if not 0 < tensors <= MAX_TENSORS:
        raise _BrokenError("holds no tensors" if not tensors else f"claims {tensors} tensors")
    if keys > MAX_KEYS:
        raise _BrokenError(f"claims {keys} metadata keys")
    values, vocabulary = _metadata(reader, keys)
    architecture = _identity(values)
    parameters, repacked = _tensors(reader, tensors, _alignment(values))
    file_type = _number(values, "general.file_type")
    return Header(
        size=reader.size,
        version=version,
        architecture=architecture,
        name=printable(values.get("general.name")),
        quantization=_QUANTIZATIONS.get(-1 if file_type is None else file_type),
        context_length=_number(values, f"{architecture}.context_length"),
        block_count=_number(values, f"{architecture}.block_count"),
        parameters=parameters,
        has_chat_template=bool(values.get("tokenizer.chat_template")),
        geometry=geometry.read(values, architecture, vocabulary),
        repacked=repacked,
    )


def _metadata(reader: _Reader, keys: int) -> tuple[dict[str, object], int]:
    """The scalars and (cut) texts of the metadata, and the size of the vocabulary.

    Arrays are skipped, but for the short ones of numbers that geometry.py wants, which become tuples.
    """
    values: dict[str, object] = {}
    vocabulary = 0
    for _ in range(keys):
        key = reader.text()
        kind = reader.u32()
        if kind == _STRING:
            values[key] = reader.text()
        elif kind in _SCALARS:
            values[key] = _SCALARS[kind].unpack(reader.take(_SCALARS[kind].size))[0]
        elif kind == _ARRAY:
            item, count = reader.u32(), reader.u64()
            if item == _STRING:
                reader.skip_strings(count)
                if key == "tokenizer.ggml.tokens":
                    vocabulary = count
            elif item in _SCALARS and key.endswith(geometry.PER_LAYER) and count <= geometry.MAX_LAYERS:
                scalar = _SCALARS[item]
                values[key] = tuple(scalar.unpack(reader.take(scalar.size))[0] for _ in range(count))
            elif item in _SCALARS:
                reader.skip(count * _SCALARS[item].size)
            else:
                raise _BrokenError(f"has an array of unknown type {item}")
        else:
            raise _BrokenError(f"has a value of unknown type {kind}")
    return values, vocabulary


def _identity(values: dict[str, object]) -> str:
    """The architecture, if the file is a whole model of its own."""
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", architecture):
        raise _BrokenError("does not name its architecture")
    kind = values.get("general.type")
    if kind in ("adapter", "mmproj", "imatrix", "vocab") or architecture == "clip":
        raise _BrokenError(f"is no model of its own but {'mmproj' if architecture == 'clip' else kind} data")
    parts = _number(values, "split.count")
    if parts and parts > 1:
        raise _BrokenError(
            f"is one of {parts} parts of a split GGUF: join them with 'llama-gguf-split --merge'"
        )
    return architecture


def _number(values: dict[str, object], key: str) -> int | None:
    value = values.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise _BrokenError(f"has an impossible {printable(key)}")
    return value


def _alignment(values: dict[str, object]) -> int:
    alignment = _number(values, "general.alignment")
    if alignment is None:
        return 32
    if alignment == 0 or alignment & (alignment - 1):
        raise _BrokenError("has an impossible general.alignment")
    return alignment


def _tensors(reader: _Reader, count: int, alignment: int) -> tuple[int, int]:
    """Checks that the data of all tensors lies within the file; returns Header.parameters and .repacked."""
    parameters = repacked = end = 0
    for _ in range(count):
        name = reader.text()
        dimensions = reader.u32()
        if not 0 < dimensions <= 4:
            raise _BrokenError(f"has a tensor of {dimensions} dimensions")
        shape = struct.unpack(f"<{dimensions}Q", reader.take(8 * dimensions))
        kind, offset = reader.u32(), reader.u64()
        elements = 1
        for width in shape:
            elements *= width
        # A type that came after this table was written: then only the offset can be checked.
        per_block, block_bytes = BLOCKS.get(kind, (1, 0))
        if shape[0] % per_block or offset % alignment or elements >= 1 << 48:
            raise _BrokenError(f"has an impossible tensor {printable(name)}")
        parameters += elements
        length = elements // per_block * block_bytes
        end = max(end, offset + length)
        # the embedding is looked up, not multiplied, and stays as it is
        if kind in _REPACKED and dimensions > 1 and shape[1] % 8 == 0 and not name.startswith("token_embd"):
            repacked += length
    data = -(-reader.position // alignment) * alignment
    if data + end > reader.size:
        raise _BrokenError(f"is truncated: {reader.size} bytes of at least {data + end}")
    return parameters, repacked


def printable(text: object) -> str | None:
    """A text from a file of unknown origin, made safe to show on one line; None for anything else."""
    if not isinstance(text, str):
        return None
    return re.sub(r"[^ -~]+", "?", text).strip()[:80] or None
