"""Models of several files: read, pulled, added, checked and removed as one."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

import pytest

from llmsvc.config import Config
from llmsvc.errors import Error, ModelError, NotFoundError, UnavailableError
from llmsvc.library import gguf, installing, preflight, records, settings, sources, store, verifying
from tests.hub import Hub, Repository
from tests.unit.library import ggufs
from tests.unit.library.splits import split

FIRST = "big-00001-of-00003.gguf"
TENSORS = [(f"blk.{number}.weight", (256, 4), 12) for number in range(7)]


@pytest.fixture
def whole(host: Path) -> Path:
    file = host / "whole.gguf"
    file.write_bytes(ggufs.gguf(tensors=TENSORS))
    return file


@pytest.fixture(params=[False, True], ids=["tensors in all", "no tensors in the first"])
def parts(host: Path, whole: Path, request: pytest.FixtureRequest) -> list[Path]:
    (host / "split").mkdir()
    return split(whole, host / "split", "big", 3, empty_first=request.param)


def visible(models: Path) -> list[str]:
    return sorted(path.name for path in models.glob("[!.]*"))


ALL = sorted(f"big-{number:05d}-of-00003.gguf{end}" for number in (1, 2, 3) for end in ("", ".sha256"))


def test_the_header_is_that_of_all_parts_together(whole: Path, parts: list[Path]) -> None:
    header, of_parts = gguf.read_header(whole), gguf.read_header(parts[0])
    assert of_parts.size == sum(part.stat().st_size for part in parts)
    same = dataclasses.replace(of_parts, size=header.size)
    assert same == header


@pytest.mark.parametrize(
    ("harm", "problem"),
    [
        (lambda parts: parts[1].unlink(), "00002-of-00003.gguf: cannot be read: No such file"),
        (
            lambda parts: shutil.copy(parts[1], parts[2]),
            "00003-of-00003.gguf: is not part 3 of 3, as its name",
        ),
        (
            lambda parts: parts[2].write_bytes(parts[2].read_bytes()[:-32]),
            "00003-of-00003.gguf: is truncated",
        ),
        (lambda parts: parts[1].write_bytes(ggufs.gguf()), "00002-of-00003.gguf: is not part 2 of 3"),
    ],
    ids=["missing", "swapped", "truncated", "another model"],
)
def test_a_part_that_is_wrong_is_named(parts: list[Path], harm, problem: str) -> None:  # type: ignore[no-untyped-def]
    harm(parts)
    with pytest.raises(ModelError) as caught:
        gguf.read_header(parts[0])
    assert problem in str(caught.value)


def test_parts_of_two_splits_do_not_belong_together(host: Path, parts: list[Path]) -> None:
    (host / "other").mkdir()
    (host / "fewer.gguf").write_bytes(ggufs.gguf(tensors=TENSORS[:4]))
    other = split(host / "fewer.gguf", host / "other", "big", 3)
    shutil.copy(other[2], parts[2])
    with pytest.raises(ModelError, match="do not belong together: tensors are missing"):
        gguf.read_header(parts[0])


def test_a_part_under_another_name_is_told_what_it_is(host: Path, parts: list[Path]) -> None:
    for part in parts[:2]:
        moved = part.rename(host / f"{part.stem[:5]}.gguf")
        with pytest.raises(
            ModelError, match=r"is one of 3 parts; the first is called NAME-00001-of-00003\.gguf"
        ):
            gguf.read_header(moved)


def test_a_split_model_of_the_hub_is_pulled_as_one(
    hub: Hub, conf: Config, models: Path, parts: list[Path]
) -> None:
    hub.repositories["owner/big-GGUF"] = Repository({f"Q4/{part.name}": part.read_bytes() for part in parts})
    installed = installing.add(f"owner/big-GGUF/Q4/{parts[1].name}", config=conf)
    assert (installed.name, installed.file) == ("big", models / FIRST), "any part means all"
    assert visible(models) == ALL
    assert [file.read_bytes() for file in sources.all_parts(installed.file)] == [
        part.read_bytes() for part in parts
    ]
    assert preflight.check("big") is None
    found = records.read(installed.file)
    assert found is not None and found.origin == f"hf:owner/big-GGUF/Q4/{FIRST}"
    assert not installing.add(f"owner/big-GGUF/Q4/{FIRST}", name="again", config=conf).file.samefile(parts[0])
    assert len(hub.got()) == 3, "fetched once"
    assert store.remove("big", conf).files == []
    removed = store.remove("again", conf)
    assert removed.freed == sum(part.stat().st_size for part in parts)
    assert visible(models) == []


def test_a_part_that_the_hub_has_not_fails_before_anything_is_fetched(
    hub: Hub, conf: Config, parts: list[Path]
) -> None:
    hub.repositories["owner/big-GGUF"] = Repository({part.name: part.read_bytes() for part in parts[:2]})
    with pytest.raises(NotFoundError, match=r"owner/big-GGUF has no file big-00003-of-00003\.gguf"):
        installing.add(f"owner/big-GGUF/{FIRST}", config=conf)
    assert hub.got() == []


def test_the_parts_that_are_complete_are_not_fetched_again(
    hub: Hub, conf: Config, models: Path, parts: list[Path]
) -> None:
    hub.repositories["owner/big-GGUF"] = Repository({part.name: part.read_bytes() for part in parts})

    def before(file: str, at: int) -> None:
        if file == parts[2].name:
            raise ConnectionError

    hub.before = before
    with pytest.raises(UnavailableError):
        installing.add(f"owner/big-GGUF/{FIRST}", config=conf)
    assert visible(models) == []
    hub.before, hub.sent = (lambda file, at: None), 0
    installing.add(f"owner/big-GGUF/{FIRST}", config=conf)
    assert hub.sent == parts[2].stat().st_size


def test_wrong_bytes_in_the_last_part_leave_nothing(
    hub: Hub, conf: Config, models: Path, parts: list[Path]
) -> None:
    repository = Repository({part.name: part.read_bytes() for part in parts})
    repository.sent[parts[2].name] = parts[2].read_bytes()[:-1] + b"\1"
    hub.repositories["owner/big-GGUF"] = repository
    with pytest.raises(Error, match="arrived damaged"):
        installing.add(f"owner/big-GGUF/{FIRST}", config=conf)
    assert visible(models) == []
    assert store.names() == []
    repository.sent.clear()
    assert installing.add(f"owner/big-GGUF/{FIRST}", config=conf).changed


@pytest.mark.parametrize("how", ["auto", "copy", "move"])
def test_a_split_model_of_this_machine_is_added_as_one(
    conf: Config, models: Path, parts: list[Path], how: installing.How
) -> None:
    contents = [part.read_bytes() for part in parts]
    installed = installing.add(str(parts[1]), name="m", config=conf, options=installing.Options(how=how))
    assert visible(models) == ALL
    assert [file.read_bytes() for file in sources.all_parts(installed.file)] == contents
    assert [part.exists() for part in parts] == [how != "move"] * 3
    assert settings.load("m").model == models / FIRST


def test_two_split_models_of_one_name_get_two_places(
    conf: Config, host: Path, models: Path, parts: list[Path]
) -> None:
    (host / "other").mkdir()
    (host / "fewer.gguf").write_bytes(ggufs.gguf(tensors=TENSORS[:4]))
    other = split(host / "fewer.gguf", host / "other", "big", 3)
    installing.add(str(parts[0]), name="one", config=conf)
    installing.add(str(other[0]), name="two", config=conf)
    assert settings.load("two").model == models / "two-00001-of-00003.gguf"
    assert gguf.read_header(settings.load("two").model).parameters == 4 * 1024


def test_damage_in_any_part_is_found(conf: Config, parts: list[Path]) -> None:
    copied = installing.Options(how="copy")
    file = installing.add(str(parts[0]), name="m", config=conf, options=copied).file
    last = sources.all_parts(file)[2]
    last.write_bytes(last.read_bytes()[:-1] + b"\1")
    with pytest.raises(ModelError, match=r"00003-of-00003\.gguf: is damaged"):
        preflight.check("m")
    assert verifying.verify("m", conf, lambda *told: None).state == "broken"
