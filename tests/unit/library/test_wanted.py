from __future__ import annotations

from pathlib import Path

import pytest

from llmsvc.errors import NotFoundError, UsageError
from llmsvc.library.sources import Hub, Local
from llmsvc.library.wanted import clean_name, resolve


def test_a_catalogue_name_is_its_entry() -> None:
    wanted = resolve("smollm2")
    assert wanted.name == "smollm2"
    assert wanted.entry is not None
    assert wanted.source == wanted.entry.source


def test_owner_repo_file_is_a_file_of_the_hub() -> None:
    wanted = resolve("TheBloke/TinyLlama-GGUF/sub/TinyLlama.Q4_K_M.gguf")
    assert wanted.source == Hub("TheBloke/TinyLlama-GGUF", "sub/TinyLlama.Q4_K_M.gguf")
    assert wanted.name == "tinyllama.q4_k_m"


def test_a_file_that_exists_wins_over_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "a/b/c.gguf"
    file.parent.mkdir(parents=True)
    file.touch()
    assert resolve("a/b/c.gguf").source == Local(file)
    assert resolve("./a/b/c.gguf").source == Local(file)


def test_a_symlink_is_followed_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "real.gguf").touch()
    (tmp_path / "link.gguf").symlink_to("real.gguf")
    assert resolve(str(tmp_path / "link.gguf")).source == Local(tmp_path / "real.gguf")


@pytest.mark.parametrize(
    "what", ["/no/such.gguf", "such.gguf", "../x/y.gguf", "a/b/c.bin", "./a", "a b/c/d.gguf"]
)
def test_an_absent_file_is_named(what: str) -> None:
    with pytest.raises(NotFoundError, match="no such file"):
        resolve(what)


def test_a_repository_alone_is_not_enough() -> None:
    with pytest.raises(UsageError, match="names a repository"):
        resolve("TheBloke/TinyLlama-GGUF")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("Mistral-7B-Instruct-v0.3-Q4_K_M.gguf", "mistral-7b-instruct-v0.3-q4_k_m"),
        ("Some Model (1).GGUF", "some-model-1"),
        ("__.hidden_.gguf", "hidden"),
        ("x" * 200 + ".gguf", "x" * 63),
    ],
)
def test_the_name_is_made_from_the_file(file: str, name: str) -> None:
    assert clean_name(file) == name


@pytest.mark.parametrize("name", ["current", "Upper", "a/b", "-x", "x" * 64, "a\n"])
def test_a_name_that_cannot_be_an_instance_is_refused(name: str) -> None:
    with pytest.raises(UsageError, match="cannot be called"):
        resolve("smollm2", name)


def test_a_file_whose_name_makes_none_asks_for_one(tmp_path: Path) -> None:
    for file in ("Ω.gguf", "current.gguf"):
        (tmp_path / file).touch()
        with pytest.raises(UsageError) as caught:
            resolve(str(tmp_path / file))
        assert "--name" in str(caught.value.hint)


def test_a_quantization_that_is_not_the_usual_one_is_a_model_beside_it() -> None:
    usual, other = resolve("mistral"), resolve("mistral:Q5_K_M")
    assert (usual.name, resolve("mistral:q4_k_m").name) == ("mistral", "mistral")
    assert other.name == "mistral-q5_k_m"
    assert other.source == Hub(
        "bartowski/Mistral-7B-Instruct-v0.3-GGUF", "Mistral-7B-Instruct-v0.3-Q5_K_M.gguf"
    )
    assert resolve("mistral:q5_k_m", "big").name == "big"
    with pytest.raises(NotFoundError, match="mistral is not in the catalogue as 'q9'") as caught:
        resolve("mistral:q9")
    assert "mistral:q5_k_m" in str(caught.value.hint)


def test_a_revision_stands_behind_the_file() -> None:
    assert resolve("o/r/sub/f.gguf@refs/pr/3").source == Hub("o/r", "sub/f.gguf", "refs/pr/3")
    assert resolve("o/r/f@x.gguf").source == Hub("o/r", "f@x.gguf")
    for wrong in ("o/r/f.gguf@", "o/r/f.gguf@-x", "o/r/f.gguf@a b"):
        with pytest.raises((NotFoundError, UsageError)):
            resolve(wrong)


def test_any_part_of_a_split_model_means_the_model() -> None:
    wanted = resolve("o/r/q4/big-00002-of-00003.gguf")
    assert wanted.source == Hub("o/r", "q4/big-00001-of-00003.gguf")
    assert wanted.name == "big"
    assert wanted.file_names() == ["big-00001-of-00003.gguf", "big-00001-of-00003.gguf"]
    # a name that only looks like one
    assert resolve("o/r/big-00002-of-00001.gguf").source == Hub("o/r", "big-00002-of-00001.gguf")
