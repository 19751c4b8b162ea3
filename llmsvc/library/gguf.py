"""Reads the header of a GGUF file. A reader of our own, for a file may come from anywhere: it never reads,
keeps or computes more than the bounds below, whatever the file claims, and it notices a truncated file.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Magic, version, two counts; then that
many `key type value`; then that many tensor descriptions; then, aligned, the tensors' data.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from llmsvc.errors import ModelError
from llmsvc.library import geometry, sources
from llmsvc.library.geometry import Geometry
from llmsvc.library.window import BrokenError, Reader, ShortError

MAX_KEYS = 16384
MAX_TENSORS = 65536
STRING, ARRAY = 8, 9
SCALARS = {
    number: struct.Struct("<" + code)
    for number, code in zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True)
}
BLOCKS = {
    0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34), 9: (32, 36),
    10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210), 15: (256, 292),
    16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110), 22: (256, 82),
    23: (256, 136), 24: (1, 1), 25: (1, 2), 26: (1, 4), 27: (1, 8), 28: (1, 8), 29: (256, 56), 30: (1, 2),
    34: (256, 54), 35: (256, 66), 39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18),
}  # fmt: skip
"""(elements in a block, bytes of a block) by ggml's type number: ggml.c, type_traits."""
_RANK = 4
"""llama.h, LLAMA_POOLING_TYPE_RANK"""
_RANKING_HEADS = {"cls.weight", "cls.output.weight"}
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

NO_GEOMETRY = Geometry(0, 0, 0, 0, 0, 0)


@dataclasses.dataclass(frozen=True)
class Header:
    """What a GGUF says about itself; None where it is silent. Texts are printable and short."""

    size: int
    """Bytes of the file, of a split one of all parts."""
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
    embeds: bool
    """Whether it was made for embeddings."""
    ranks: bool
    """Whether it was made to rank documents by how well they answer a query."""
    can_rank: bool
    """Whether it has the head that this takes; without one the scores would mean nothing."""
    geometry: Geometry
    repacked: int
    """Bytes of the tensors that llama.cpp copies on a CPU, beside the file that it maps."""

    @property
    def only_reads(self) -> bool:
        """Whether it was made to read texts, not to write any."""
        return self.embeds or self.ranks


@dataclasses.dataclass(frozen=True)
class _Part:
    """What one file holds: a whole model, or a part of a split one."""

    size: int
    version: int
    values: dict[str, object]
    vocabulary: int
    tensors: int
    parameters: int
    repacked: int
    can_rank: bool
    number: int
    """Its place among the parts, from 0."""
    of: int


def read_header(file: Path) -> Header:
    """Reads and checks the header of a complete model file; at most a few MiB of memory.

    :param file: of a split model the first part; the others are read too
    :raises ModelError: absent, unreadable, not a GGUF, broken, truncated, or not a model of its own
    """
    first = _read(file)
    with _told(file):
        names = sources.parts(file.name)
        if first.of > 1 and (first.number != 0 or len(names) != first.of or names[0] != file.name):
            raise BrokenError(
                f"is one of {first.of} parts; the first is called NAME-00001-of-{first.of:05d}.gguf"
            )
        header = _header(first)
    if first.of == 1:
        return header
    rest = [_sibling(file.with_name(name), number, first.of) for number, name in enumerate(names) if number]
    total = [first, *rest]
    with _told(file):
        expected = _number(first.values, "split.tensors.count")
        if expected not in (None, sum(part.tensors for part in total)):
            raise BrokenError("and its parts do not belong together: tensors are missing")
    purpose = _purpose(first.values, header.architecture, can_rank=any(part.can_rank for part in total))
    return dataclasses.replace(
        header,
        size=sum(part.size for part in total),
        parameters=sum(part.parameters for part in total),
        repacked=sum(part.repacked for part in total),
        embeds=purpose.embeds,
        ranks=purpose.ranks,
        can_rank=purpose.can_rank,
    )


def peek(file: Path, size: int) -> Header | None:
    """The header of a file that is still arriving; None if not all of the header is there.

    :param size: bytes that the file will have
    :raises ModelError: as read_header(); the parts that may follow it are not looked at
    """
    try:
        part = _read(file, size)
    except _ArrivingError:
        return None
    with _told(file):
        return _header(part)


class _ArrivingError(Exception):
    """The header goes on where the file ends by now."""


def _sibling(file: Path, number: int, of: int) -> _Part:
    part = _read(file)
    with _told(file):
        if (part.number, part.of) != (number, of):
            raise BrokenError(f"is not part {number + 1} of {of}, as its name says")
    return part


@contextlib.contextmanager
def _told(file: Path) -> Iterator[None]:
    try:
        yield
    except BrokenError as error:
        raise ModelError(str(error), file=file, hint="fetch or copy the file again") from None
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", file=file) from None


def _read(file: Path, arriving: int | None = None) -> _Part:
    with _told(file):
        # Without O_NONBLOCK the open of a FIFO would wait for a writer.
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as stream:
            status = os.fstat(stream.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise BrokenError("is not a regular file")
            try:
                return _part(Reader(stream, status.st_size if arriving is None else arriving))
            except ShortError:
                if arriving is None:
                    raise
                raise _ArrivingError from None


def _part(reader: Reader) -> _Part:
    if reader.size < 24:
        raise BrokenError("is not a GGUF file" if reader.size else "is empty")
    if reader.take(4) != b"GGUF":
        raise BrokenError("is not a GGUF file")
    version = reader.u32()
    if version not in (2, 3):
        raise BrokenError(f"is GGUF version {version}; versions 2 and 3 are supported")
    tensors, keys = reader.u64(), reader.u64()
    if tensors > MAX_TENSORS:
        raise BrokenError(f"claims {tensors} tensors")
    if keys > MAX_KEYS:
        raise BrokenError(f"claims {keys} metadata keys")
    values, vocabulary = _metadata(reader, keys)
    of = max(_number(values, "split.count") or 1, 1)
    if not tensors and of == 1:
        raise BrokenError("holds no tensors")
    parameters, repacked, can_rank = _tensors(reader, tensors, _alignment(values))
    return _Part(
        reader.size,
        version,
        values,
        vocabulary,
        tensors,
        parameters,
        repacked,
        can_rank,
        number=_number(values, "split.no") or 0,
        of=of,
    )


def _header(part: _Part) -> Header:
    values = part.values
    architecture = _identity(values)
    file_type = _number(values, "general.file_type")
    purpose = _purpose(values, architecture, can_rank=part.can_rank)
    return Header(
        size=part.size,
        version=part.version,
        architecture=architecture,
        name=printable(values.get("general.name")),
        quantization=_QUANTIZATIONS.get(-1 if file_type is None else file_type),
        context_length=_number(values, f"{architecture}.context_length"),
        block_count=_number(values, f"{architecture}.block_count"),
        parameters=part.parameters,
        has_chat_template=bool(values.get("tokenizer.chat_template")),
        embeds=purpose.embeds,
        ranks=purpose.ranks,
        can_rank=purpose.can_rank,
        geometry=geometry.read(values, architecture, part.vocabulary),
        repacked=part.repacked,
    )


class _Purpose(NamedTuple):
    """See the fields of Header."""

    embeds: bool
    ranks: bool
    can_rank: bool


def _purpose(values: dict[str, object], architecture: str, *, can_rank: bool) -> _Purpose:
    pooling = _number(values, f"{architecture}.pooling_type")
    # files of rerankers that were made before 2025 do not say it
    ranks = pooling == _RANK or (pooling is None and can_rank)
    return _Purpose(pooling is not None and not ranks, ranks, can_rank)


def _metadata(reader: Reader, keys: int) -> tuple[dict[str, object], int]:
    """The scalars and (cut) texts of the metadata, and the size of the vocabulary.

    Arrays are skipped, but for the short ones of numbers that geometry.py wants, which become tuples.
    """
    values: dict[str, object] = {}
    vocabulary = 0
    for _ in range(keys):
        key = reader.text()
        kind = reader.u32()
        if kind == STRING:
            values[key] = reader.text()
        elif kind in SCALARS:
            values[key] = SCALARS[kind].unpack(reader.take(SCALARS[kind].size))[0]
        elif kind == ARRAY:
            item, count = reader.u32(), reader.u64()
            if item == STRING:
                reader.skip_strings(count)
                if key == "tokenizer.ggml.tokens":
                    vocabulary = count
            elif item in SCALARS and key.endswith(geometry.PER_LAYER) and count <= geometry.MAX_LAYERS:
                scalar = SCALARS[item]
                values[key] = tuple(scalar.unpack(reader.take(scalar.size))[0] for _ in range(count))
            elif item in SCALARS:
                reader.skip(count * SCALARS[item].size)
            else:
                raise BrokenError(f"has an array of unknown type {item}")
        else:
            raise BrokenError(f"has a value of unknown type {kind}")
    return values, vocabulary


def _identity(values: dict[str, object]) -> str:
    """The architecture, if the file is a model of its own."""
    architecture = values.get("general.architecture")
    if not isinstance(architecture, str) or not re.fullmatch(r"[A-Za-z0-9_.-]{1,64}", architecture):
        raise BrokenError("does not name its architecture")
    kind = values.get("general.type")
    if kind in ("adapter", "mmproj", "imatrix", "vocab") or architecture == "clip":
        raise BrokenError(f"is no model of its own but {'mmproj' if architecture == 'clip' else kind} data")
    return architecture


def _number(values: dict[str, object], key: str) -> int | None:
    value = values.get(key)
    if value is None:
        return None
    if type(value) is not int or not 0 <= value < 1 << 31:
        raise BrokenError(f"has an impossible {printable(key)}")
    return value


def _alignment(values: dict[str, object]) -> int:
    alignment = _number(values, "general.alignment")
    if alignment is None:
        return 32
    if alignment == 0 or alignment & (alignment - 1):
        raise BrokenError("has an impossible general.alignment")
    return alignment


def _tensors(reader: Reader, count: int, alignment: int) -> tuple[int, int, bool]:
    """Checks that the data of all tensors lies within the file; returns Header.parameters, .repacked and
    .can_rank."""
    parameters = repacked = end = 0
    can_rank = False
    for _ in range(count):
        name = reader.text()
        dimensions = reader.u32()
        if not 0 < dimensions <= 4:
            raise BrokenError(f"has a tensor of {dimensions} dimensions")
        shape = struct.unpack(f"<{dimensions}Q", reader.take(8 * dimensions))
        kind, offset = reader.u32(), reader.u64()
        elements = 1
        for width in shape:
            elements *= width
        # A type that came after this table was written: then only the offset can be checked.
        per_block, block_bytes = BLOCKS.get(kind, (1, 0))
        if shape[0] % per_block or offset % alignment or elements >= 1 << 48:
            raise BrokenError(f"has an impossible tensor {printable(name)}")
        parameters += elements
        can_rank |= name in _RANKING_HEADS
        length = elements // per_block * block_bytes
        end = max(end, offset + length)
        # the embedding is looked up, not multiplied, and stays as it is
        if kind in _REPACKED and dimensions > 1 and shape[1] % 8 == 0 and not name.startswith("token_embd"):
            repacked += length
    data = -(-reader.position // alignment) * alignment
    if data + end > reader.size:
        raise BrokenError(f"is truncated: {reader.size} bytes of at least {data + end}")
    return parameters, repacked, can_rank


def printable(text: object) -> str | None:
    """A text from a file of unknown origin, made safe to show on one line; None for anything else."""
    if not isinstance(text, str):
        return None
    return re.sub(r"[^ -~]+", "?", text).strip()[:80] or None
