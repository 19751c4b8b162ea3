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
size = 10
context = 2048
licence = "MIT"
notes = "Note."
[huggingface]
repository = "owner/repo"
file = "sub/t.gguf"
sha256 = "{SHA}"
"""


@pytest.mark.parametrize("file", sorted(paths.data("models").glob("*.toml")), ids=lambda f: f.stem)
def test_every_file_of_the_catalogue_is_valid(file: Path) -> None:
    entry = catalogue.read(file)
    assert valid_model_name(entry.name)
    assert entry.notes.endswith(".")
    assert entry.context % 1024 == 0
    assert entry.source.file.endswith(".gguf")


def test_the_catalogue_has_what_the_documentation_promises() -> None:
    entries = catalogue.load()
    assert {"smollm2", "gemma3", "tinyllama", "mistral"} <= set(entries)
    smollm2 = entries["smollm2"].source
    assert isinstance(smollm2, Pypi), "the embedded default needs no hub"
    assert isinstance(entries["mistral"].source, Hub)


def test_an_unknown_name_gets_help() -> None:
    with pytest.raises(NotFoundError) as caught:
        catalogue.lookup("smollm")
    assert caught.value.hint is not None
    assert "did you mean smollm2?" in caught.value.hint
    assert "mistral" in caught.value.hint


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('title = "T"\n', "", "title: is missing"),
        ('title = "T"', "title = 3", "title: has a bad value"),
        ('title = "T"', 'title = "two\\nlines"', "title: has a bad value"),
        ("size = 10", "size = 0", "size: must be a whole number above 0"),
        ("size = 10", "size = true", "size: must be a whole number above 0"),
        ('licence = "MIT"', 'licence = "MIT"\nlicense = "MIT"', "unknown key 'license'"),
        ("owner/repo", "owner", "repository: has a bad value"),
        ("owner/repo", "../..", "repository: has a bad value"),
        ("sub/t.gguf", "sub/t.bin", "file: has a bad value"),
        (SHA, "xyz", "sha256: has a bad value"),
        ("[huggingface]", "[elsewhere]", "must have either [pypi] or [huggingface]"),
        ("[huggingface]", "[pypi]", "[pypi]: file: has a bad value"),
        ("[huggingface]", "[huggingface", "cannot be read"),
    ],
)
def test_a_bad_file_is_named_with_the_bad_key(tmp_path: Path, old: str, new: str, problem: str) -> None:
    assert old in HUB
    file = tmp_path / "t.toml"
    file.write_text(HUB)
    assert catalogue.read(file).source == Hub("owner/repo", "sub/t.gguf", sha256=SHA)
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
