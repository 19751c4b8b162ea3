from __future__ import annotations

import os
import random
import resource
import struct
import time
from pathlib import Path

import pytest

from llmsvc.errors import ModelError
from llmsvc.library import catalogue
from llmsvc.library.gguf import read_header
from tests.unit.library.ggufs import META, TENSORS, gguf, text, typed

REAL = Path(os.environ.get("LLMSVC_TEST_MODELS", "/var/cache/llmsvc/models"))


def read(tmp_path: Path, data: bytes):  # type: ignore[no-untyped-def]
    file = tmp_path / "model.gguf"
    file.write_bytes(data)
    return read_header(file)


def refused(tmp_path: Path, data: bytes) -> str:
    with pytest.raises(ModelError) as caught:
        read(tmp_path, data)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{tmp_path / 'model.gguf'}: ")
    return message


def test_reads_what_a_header_says(tmp_path: Path) -> None:
    header = read(tmp_path, gguf())
    assert (header.version, header.architecture, header.name) == (3, "llama", "Tiny")
    assert (header.quantization, header.context_length, header.block_count) == ("Q4_K_M", 2048, 2)
    assert header.parameters == 256 * 4 + 256
    assert header.has_chat_template
    assert header.size == len(gguf())


def test_silence_is_none(tmp_path: Path) -> None:
    header = read(tmp_path, gguf({"general.architecture": "llama"}))
    assert (header.name, header.quantization, header.context_length, header.block_count) == (None,) * 4
    assert not header.has_chat_template


def test_the_order_of_keys_does_not_matter(tmp_path: Path) -> None:
    assert read(tmp_path, gguf(dict(reversed(META.items())))).context_length == 2048


def test_texts_cannot_forge_lines_or_colours(tmp_path: Path) -> None:
    name = read(tmp_path, gguf(META | {"general.name": "a\nMODEL=/etc/shadow\x1b[31m" + "x" * 500})).name
    assert name is not None
    assert name.startswith("a?MODEL")
    assert len(name) <= 80
    assert name.isprintable()


def test_a_vocabulary_larger_than_the_window_is_skipped_right(tmp_path: Path) -> None:
    words = [f"word number {i}" * (1 + i % 3) for i in range(100_000)]
    meta = {"general.architecture": "llama", "tokenizer.ggml.tokens": words, "llama.context_length": 77}
    assert read(tmp_path, gguf(meta)).context_length == 77


def test_a_text_larger_than_the_window_is_skipped_right(tmp_path: Path) -> None:
    meta = {
        "general.architecture": "llama",
        "tokenizer.chat_template": "x" * 3_000_000,
        "llama.block_count": 5,
    }
    header = read(tmp_path, gguf(meta))
    assert (header.block_count, header.has_chat_template) == (5, True)


@pytest.mark.parametrize(("name", "template"), [("smollm2", True), ("gemma3", False)])
def test_a_real_model_is_what_the_catalogue_says(name: str, template: bool) -> None:
    entry = catalogue.lookup(name)
    file = next((f for f in (REAL / f"{name}.gguf", REAL / entry.source.file) if f.exists()), None)
    if file is None:
        pytest.skip(f"no {name} in {REAL}: LLMSVC_TEST_MODELS names another directory")
    header = read_header(file)
    assert (header.size, header.quantization) == (entry.size, entry.quantization)
    assert header.context_length == entry.context
    assert header.has_chat_template is template
    assert template or entry.chat_format


# ---------------------------------------------------------------------------------------------------------


def test_every_truncation_is_found(tmp_path: Path) -> None:
    file = tmp_path / "model.gguf"
    file.write_bytes(gguf())
    for length in reversed(range(file.stat().st_size)):
        os.truncate(file, length)
        with pytest.raises(ModelError):
            read_header(file)


def test_truncated_tensor_data_says_how_much_is_missing(tmp_path: Path) -> None:
    whole = gguf()
    message = refused(tmp_path, whole[:-1])
    assert f"is truncated: {len(whole) - 1} bytes of at least {len(whole)}" in message


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "is empty"),
        (b"<html>" * 100, "is not a GGUF file"),
        (b"GGUF", "is not a GGUF file"),
        (gguf(version=1), "is GGUF version 1"),
        (gguf(version=0x3000000), "is GGUF version"),
        (gguf(tensors=()), "holds no tensors"),
        (gguf({"general.name": "x"}), "does not name its architecture"),
        (gguf(META | {"general.architecture": "a b"}), "does not name its architecture"),
        (gguf(META | {"general.architecture": "clip"}), "is no model of its own but mmproj data"),
        (gguf(META | {"general.type": "adapter"}), "is no model of its own but adapter data"),
        (gguf(META | {"split.count": 3}), "is one of 3 parts; the first is called NAME-00001-of-00003.gguf"),
        (gguf(META | {"general.alignment": 33}), "has an impossible general.alignment"),
        (gguf(META | {"general.alignment": 0}), "has an impossible general.alignment"),
        (gguf(META | {"llama.context_length": "many"}), "has an impossible llama.context_length"),
        (gguf(META | {"llama.block_count": 0xFFFFFFFF}), "has an impossible llama.block_count"),
        (gguf(tensors=[("t", (255,), 12)]), "has an impossible tensor t"),
        (gguf(tensors=[("t", (1, 1, 1, 1, 1), 0)]), "has a tensor of 5 dimensions"),
        (gguf(tensors=[("t", (1 << 40, 1 << 40), 99)], data=b""), "has an impossible tensor t"),
        (gguf(tensors=[("t", (1 << 40,), 0)], data=b""), "is truncated"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1 << 60, 1), "claims 1152921504606846976 tensors"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1 << 60), "claims 1152921504606846976 metadata keys"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + struct.pack("<Q", 1 << 63), "is truncated"),
        (b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("k") + struct.pack("<I", 13), "unknown type 13"),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("k") + struct.pack("<IIQ", 9, 9, 1),
            "has an array of unknown type 9",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("k") + struct.pack("<IIQ", 9, 8, 1 << 40),
            "claims more than",
        ),
        (
            b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("k") + struct.pack("<IIQ", 9, 4, 1 << 62),
            "is truncated",
        ),
    ],
)
def test_one_clear_line_for_each_fault(tmp_path: Path, data: bytes, problem: str) -> None:
    assert problem in refused(tmp_path, data)


def test_a_string_array_cannot_jump_beyond_the_file(tmp_path: Path) -> None:
    array = typed(["abc", "def"]).replace(struct.pack("<Q", 3), struct.pack("<Q", (1 << 64) - 8))
    assert "is truncated" in refused(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 1, 1) + text("k") + array)


def test_what_is_not_a_readable_file_is_one_line_too(tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    for path, problem in (
        (tmp_path / "absent.gguf", "cannot be read: No such file"),
        (tmp_path, "cannot be read: Is a directory"),
        (fifo, "is not a regular file"),
    ):
        with pytest.raises(ModelError, match=problem):
            read_header(path)


SECONDS, BYTES = 0.05, 50_000_000
"""What one header may cost."""


def header_of(name: str) -> bytes:
    """The header of a real model and a little of what follows it; a made one where there is no such model."""
    file = REAL / f"{name}.gguf"
    if not file.is_file():
        meta = META | {"tokenizer.ggml.tokens": [f"t{i}" for i in range(300)]}
        return gguf(meta, [*TENSORS, ("unknown.type", (32, 2), 99)])
    with file.open("rb") as stream:
        # the vocabulary is most of it: what stands before and behind it is what a mutation should hit
        return stream.read(16 << 20)


def mutated(rng: random.Random, whole: bytes, places: list[int]) -> bytearray:
    data = bytearray(whole)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = min(rng.choice(places) + rng.randrange(64), len(data) - 8)
        kind = rng.randrange(4)
        if kind == 0:
            data[at] = rng.randrange(256)
        elif kind == 1:
            data[at : at + 8] = struct.pack("<Q", rng.choice((0, 1, 1 << 31, 1 << 40, (1 << 64) - 1)))
        elif kind == 2:
            del data[at : at + rng.randrange(1, 40)]
        else:
            data[at:at] = rng.randbytes(rng.randrange(1, 40))
    return data


@pytest.mark.parametrize("name", ["made", "smollm2", "gemma3"])
def test_10_000_mutated_headers_cost_nothing(tmp_path: Path, name: str, long: bool) -> None:
    """A mutated header is read or refused; nothing else happens, and nothing is believed that costs.

    The real ones are cut behind their header: a sparse file of the real size stands for the rest.
    """
    count = {"made": 8000, "smollm2": 1200, "gemma3": 800}[name] if long else {"made": 800}.get(name, 30)
    rng = random.Random(7)
    whole = header_of(name)
    # keys and tensors are found by their names; between them lie arrays of a million strings
    marks = (b"general.", b"tokenizer.", b".attention.", b"blk.", b"weight", b"GGUF")
    places = [at for mark in marks for at in all_of(whole, mark)]
    size = (REAL / f"{name}.gguf").stat().st_size if len(whole) > 1 << 20 else len(whole)
    file = tmp_path / "model.gguf"
    outcomes = {"read": 0, "refused": 0}
    slowest = 0.0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(count):
        data = mutated(rng, whole, places)
        file.write_bytes(data)
        if size > len(data):
            os.truncate(file, size)
        del data
        started = time.process_time()
        try:
            read_header(file)
            outcomes["read"] += 1
        except ModelError as error:
            outcomes["refused"] += 1
            assert "\n" not in str(error)
        slowest = max(slowest, time.process_time() - started)
    assert min(outcomes.values()) > count // 40
    assert slowest < SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < BYTES


def all_of(data: bytes, mark: bytes) -> list[int]:
    """Where `mark` stands, its first 400 places."""
    places, at = [], data.find(mark)
    while at >= 0 and len(places) < 400:
        places.append(max(0, at - 16))
        at = data.find(mark, at + 1)
    return places


def test_the_most_that_a_hostile_file_can_claim_is_bounded(tmp_path: Path) -> None:
    """A large file made of nothing but empty strings, in arrays just below the limit."""
    count = 1 << 20
    array = text("k") + struct.pack("<IIQ", 9, 8, count) + bytes(8 * count)
    started = time.process_time()
    assert "claims more than" in refused(tmp_path, b"GGUF" + struct.pack("<IQQ", 3, 1, 6) + array * 6)
    assert time.process_time() - started < 5


@pytest.mark.parametrize(
    "pooling, head, embeds, ranks",
    [
        (None, (), False, False),
        (1, (), True, False),
        (4, ("cls.output.weight",), False, True),
        # of a time when files did not say what they are for
        (None, ("cls.weight", "cls.output.weight"), False, True),
        (2, ("cls.weight",), True, False),
        (4, (), False, True),
    ],
)
def test_what_a_model_was_made_for(
    tmp_path: Path, pooling: int | None, head: tuple[str, ...], embeds: bool, ranks: bool
) -> None:
    meta = META if pooling is None else META | {"llama.pooling_type": pooling}
    header = read(tmp_path, gguf(meta, [*TENSORS, *((name, (256,), 0) for name in head)]))
    assert (header.embeds, header.ranks, header.can_rank) == (embeds, ranks, bool(head))
    assert header.only_reads == (embeds or ranks)
