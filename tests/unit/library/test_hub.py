"""With the real huggingface_hub, against the hub of tests/hub.py."""

from __future__ import annotations

import hashlib
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from llmsvc.config import Config
from llmsvc.errors import DeniedError, Error, ModelError, NotFoundError, UnavailableError
from llmsvc.library import installing, store
from tests.hub import COMMIT, Hub, Repository
from tests.unit.library.ggufs import gguf

CONTENTS = gguf()
FILE = "Tiny.Q4_K_M.gguf"
WHAT = f"owner/tiny-GGUF/{FILE}"


@pytest.fixture(autouse=True)
def _files(hub: Hub) -> None:
    hub.repositories["owner/tiny-GGUF"] = Repository({FILE: CONTENTS, "sub/B.gguf": CONTENTS})


def failure(kind: type[Error], what: str, conf: Config) -> Error:
    """The error of adding `what`, shown to be one line, and that nothing is left of it."""
    with pytest.raises(kind) as caught:
        installing.add(what, config=conf)
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 300
    assert not store.names()
    models = conf.llama_models_dir
    assert [path for path in models.rglob("*") if path.name not in (".incoming", ".names")] == []
    return caught.value


def test_a_file_of_the_hub_becomes_an_instance(hub: Hub, conf: Config, models: Path) -> None:
    installed = installing.add(WHAT, config=conf)
    assert (installed.name, installed.file) == ("tiny.q4_k_m", models / FILE)
    assert installed.file.read_bytes() == CONTENTS
    assert installed.file.stat().st_mode & 0o7777 == 0o644
    source, commit, _, digest = (models / f"{FILE}.sha256").read_text().splitlines()
    assert (source, commit) == (f"# source: hf:{WHAT}", f"# commit: {COMMIT}")
    assert digest == f"{hashlib.sha256(CONTENTS).hexdigest()}  {FILE}"
    assert sorted(path.name for path in models.rglob("*")) == [".incoming", ".names", FILE, f"{FILE}.sha256"]


def test_what_is_downloaded_is_the_commit_that_was_looked_up(hub: Hub, conf: Config) -> None:
    installing.add(WHAT, config=conf)
    assert hub.got()
    assert all(f"/resolve/{COMMIT}/" in one.path for one in hub.got())


def test_a_file_in_a_folder_of_the_repository(hub: Hub, conf: Config, models: Path) -> None:
    assert installing.add("owner/tiny-GGUF/sub/B.gguf", config=conf).file == models / "B.gguf"


def test_the_same_file_is_fetched_once(hub: Hub, conf: Config) -> None:
    first = installing.add(WHAT, config=conf)
    seen = len(hub.requests)
    second = installing.add(WHAT, name="other", config=conf)
    assert second.file == first.file
    assert len(hub.requests) == seen


def test_adding_it_several_times_at_once_fetches_it_once(hub: Hub, conf: Config) -> None:
    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(lambda _: installing.add(WHAT, config=conf), range(6)))
    assert len({result.file for result in results}) == 1
    assert [result.changed for result in results].count(True) == 1
    assert len(hub.got()) == 1


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (CONTENTS[:-1] + b"\1", "arrived damaged: its sha256 is not the hub's"),
        (bytes(len(CONTENTS)), "arrived damaged: its sha256 is not the hub's"),
        (CONTENTS[:-100], "arrived damaged: the hub described"),
        (CONTENTS + b"more", "arrived damaged: the hub described"),
    ],
)
def test_wrong_bytes_are_refused_and_the_next_try_is_clean(
    hub: Hub, conf: Config, wrong: bytes, message: str
) -> None:
    hub.repositories["owner/tiny-GGUF"].sent[FILE] = wrong
    assert message in failure(Error, WHAT, conf).message
    hub.repositories["owner/tiny-GGUF"].sent.clear()
    assert installing.add(WHAT, config=conf).file.read_bytes() == CONTENTS


def test_a_file_that_is_no_gguf_is_refused(hub: Hub, conf: Config) -> None:
    hub.repositories["owner/tiny-GGUF"].files["x.gguf"] = b"<html>" * 100
    message = failure(ModelError, "owner/tiny-GGUF/x.gguf", conf).message
    assert message == "hf:owner/tiny-GGUF/x.gguf is not a GGUF file"


def test_without_a_sha256_nothing_is_fetched(hub: Hub, conf: Config) -> None:
    hub.repositories["owner/tiny-GGUF"].etags[FILE] = "0" * 40
    assert "does not tell the sha256" in failure(Error, WHAT, conf).message
    assert not hub.got()


def test_an_unknown_file_is_not_found(hub: Hub, conf: Config) -> None:
    error = failure(NotFoundError, "owner/tiny-GGUF/Other.gguf", conf)
    assert error.message == "owner/tiny-GGUF has no file Other.gguf"


def test_an_unknown_repository_is_not_found(hub: Hub, conf: Config) -> None:
    error = failure(NotFoundError, "owner/none/Other.gguf", conf)
    assert error.message == "the hub has no repository owner/none, or it is private"


def test_a_gated_repository_says_how_to_get_in(hub: Hub, conf: Config, host: Path) -> None:
    hub.repositories["owner/tiny-GGUF"].gated = True
    error = failure(DeniedError, WHAT, conf)
    assert "is gated" in error.message
    assert str(host / "etc/credentials/hf-token") in str(error.hint)


def test_the_token_comes_from_the_credential(hub: Hub, conf: Config, host: Path) -> None:
    hub.repositories["owner/tiny-GGUF"].gated = True
    (host / "etc/credentials").mkdir()
    token = host / "etc/credentials/hf-token"
    token.write_text("hf_wrong\n")
    error = failure(DeniedError, WHAT, conf)
    assert error.message == "the hub refuses our token"
    assert "hf_wrong" not in f"{error.message} {error.hint}"
    token.write_text(f"{hub.token}\n")
    assert installing.add(WHAT, config=conf).file.read_bytes() == CONTENTS


def test_a_hub_that_is_not_there_is_one_line(conf: Config, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    error = failure(UnavailableError, WHAT, conf)
    assert re.match(r"http://127\.0\.0\.1:9 cannot be reached: \S", error.message)
    assert "HTTPS_PROXY" in str(error.hint)
