from __future__ import annotations

from pathlib import Path

import pytest

from llmsvc import paths
from llmsvc.config import valid_model_name
from llmsvc.errors import NotFoundError, SettingError
from llmsvc.library import catalogue
from llmsvc.library.sources import Hub, Pypi

SHA = "0" * 64
HUB = f"""\
title = "T"
parameters = "1B"
quantization = "Q8_0"
context = 2048
licence = "MIT"
gated = true
notes = "Note."
[shape]
layers = 2
hidden = 64
intermediate = 128
heads = 4
kv_heads = 2
head_dim = 16
vocabulary = 100
[huggingface]
repository = "owner/repo"
revision = "v1"
[huggingface.files.Q8_0]
file = "sub/t.gguf"
size = 10
sha256 = "{SHA}"
[huggingface.files.Q4_K_M]
file = "t-00001-of-00002.gguf"
size = 6
"""


@pytest.mark.parametrize("file", sorted(paths.data("models").glob("*.toml")), ids=lambda f: f.stem)
def test_every_file_of_the_catalogue_is_valid(file: Path) -> None:
    entry = catalogue.read(file)
    assert valid_model_name(entry.name)
    assert entry.notes.endswith(".")
    assert entry.context % 1024 == 0
    assert entry.source.file.endswith(".gguf")
    sizes = [one.size for one in entry.files.values()]
    assert sizes == sorted(set(sizes)), "larger quantizations are larger"
    for one in entry.files.values():
        assert isinstance(one.source, Pypi) or one.quantization.lower() in one.source.path.lower()


def weights(parameters: str) -> float:
    """`135M` as a number."""
    return float(parameters[:-1]) * {"M": 1e6, "B": 1e9}[parameters[-1]]


@pytest.mark.parametrize("file", sorted(paths.data("models").glob("*.toml")), ids=lambda f: f.stem)
def test_sizes_and_shapes_of_the_catalogue_are_plausible(file: Path) -> None:
    """A wrong digit shows: bits per weight of each quantization, and the weights that the shape makes."""
    entry = catalogue.read(file)
    bits = {
        "Q2": (2.5, 3.6),
        "Q3": (3.4, 4.3),
        "Q4": (4, 6.6),
        "Q5": (5, 6.6),
        "Q6": (6, 7.5),
        "Q8": (8, 9.1),
    }
    if isinstance(entry.source, Pypi):
        return  # exact, and checked by its sha256
    for one in entry.files.values():
        low, high = bits.get(one.quantization[:2], (15, 17.5))
        assert low <= 8 * one.size / weights(entry.parameters) <= high, one.quantization
    shape = entry.shape
    if shape is None or entry.name == "qwen3-30b-a3b":  # its shape is that of one expert
        return
    heads = shape.key_values / shape.layers
    layer = shape.embedding * (3 * shape.feed_forward + 2 * shape.embedding + 2 * heads)
    made = shape.layers * layer + shape.vocabulary * shape.embedding
    assert made == pytest.approx(weights(entry.parameters), rel=0.25)


def test_the_catalogue_has_what_the_documentation_promises() -> None:
    entries = catalogue.load()
    assert {"smollm2", "gemma3", "tinyllama", "mistral"} <= set(entries)
    assert len(entries) >= 20
    assert list(entries) == sorted(entries)
    assert any(entry.gated for entry in entries.values())
    assert any(entry.embedding for entry in entries.values())
    smollm2 = entries["smollm2"].source
    assert isinstance(smollm2, Pypi), "the embedded default needs no hub"
    assert isinstance(entries["mistral"].source, Hub)


def test_an_unknown_name_gets_help() -> None:
    with pytest.raises(NotFoundError) as caught:
        catalogue.lookup("smollm")
    assert caught.value.hint is not None
    assert "did you mean smollm2?" in caught.value.hint
    assert "mistral" in caught.value.hint


def test_an_entry_has_a_file_for_each_quantization(tmp_path: Path) -> None:
    (tmp_path / "t.toml").write_text(HUB)
    entry = catalogue.read(tmp_path / "t.toml")
    assert list(entry.files) == ["Q4_K_M", "Q8_0"], "the smallest first"
    assert (entry.size, entry.gated) == (10, True)
    assert entry.file("q4_k_m").source == Hub("owner/repo", "t-00001-of-00002.gguf", "v1")
    assert entry.shape is not None
    assert (entry.shape.layers, entry.shape.key_values) == (2, 2 * 2 * 16)
    with pytest.raises(NotFoundError) as caught:
        entry.file("q2")
    assert caught.value.hint == "there are t:q4_k_m, t:q8_0"


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('title = "T"\n', "", "title: is missing"),
        ('title = "T"', "title = 3", "title: has a bad value"),
        ('title = "T"', 'title = "two\\nlines"', "title: has a bad value"),
        ("size = 10", "size = 0", "size: must be a whole number above 0"),
        ("size = 10", "size = true", "size: must be a whole number above 0"),
        ('licence = "MIT"', 'licence = "MIT"\nlicense = "MIT"', "unknown key 'license'"),
        ("gated = true", 'gated = "yes"', "gated: must be true or false"),
        ("layers = 2", "layers = 0", "[shape]: layers: must be a whole number above 0"),
        ("layers = 2", "layer = 2", "[shape]: layers: must be a whole number above 0"),
        ('quantization = "Q8_0"', 'quantization = "Q5_0"', "quantization: there is no file of Q5_0"),
        ("files.Q8_0", "files.q8", "[huggingface.files.q8]: is not the name of a quantization"),
        ("00001-of-00002", "00002-of-00002", "file: must be the first part"),
        ('revision = "v1"', 'revision = "../x"', "revision: has a bad value"),
        ("owner/repo", "owner", "repository: has a bad value"),
        ("owner/repo", "../..", "repository: has a bad value"),
        ("sub/t.gguf", "sub/t.bin", "file: has a bad value"),
        (SHA, "xyz", "sha256: has a bad value"),
        ("[huggingface", "[elsewhere", "must have either [pypi] or [huggingface]"),
        ("[huggingface", "[pypi", "[pypi]: file: is missing"),
        ("[huggingface]", "[huggingface", "cannot be read"),
    ],
)
def test_a_bad_file_is_named_with_the_bad_key(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in HUB
    file = tmp_path / "t.toml"
    file.write_text(HUB)
    assert catalogue.read(file).source == Hub("owner/repo", "sub/t.gguf", "v1", sha256=SHA)
    file.write_text(HUB.replace(old, new))
    with pytest.raises(SettingError) as caught:
        catalogue.read(file)
    assert problem in str(caught.value)
    assert str(file) in str(caught.value)


def test_a_file_name_that_cannot_name_an_instance_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "Big Model.toml"
    file.write_text(HUB)
    with pytest.raises(SettingError, match="a model cannot be called 'Big Model'"):
        catalogue.read(file)
