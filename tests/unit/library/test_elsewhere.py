"""Models of Ollama, LM Studio and the hub's cache: found where those keep them, and used without a copy."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from huggingface_hub import hf_hub_download

from llmsvc.cli import main, model_get, session
from llmsvc.config import Config
from llmsvc.library import elsewhere, settings, store
from llmsvc.systemd import manager
from tests.hub import Hub, Repository
from tests.unit.library.ggufs import META, gguf
from tests.unit.library.splits import split

Run = Callable[..., tuple[int, str, str]]
IMAGE = "application/vnd.ollama.image."


@pytest.fixture
def run(host: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.setattr(model_get, "require_root", lambda what: None)
    monkeypatch.setattr(manager, "reload_where_booted", lambda: None)
    monkeypatch.setattr(session, "note", lambda verb, thing: None)

    def call(*arguments: object) -> tuple[int, str, str]:
        code = main.main(["model", "import", *map(str, arguments)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def named(name: str) -> bytes:
    return gguf(META | {"general.name": name})


class Ollama:
    """A models directory as Ollama makes it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "blobs").mkdir(parents=True)

    def blob(self, contents: bytes) -> str:
        digest = hashlib.sha256(contents).hexdigest()
        (self.root / f"blobs/sha256-{digest}").write_bytes(contents)
        return f"sha256:{digest}"

    def model(self, name: str, contents: bytes, **layers: bytes) -> Path:
        manifest = self.root / "manifests" / name
        manifest.parent.mkdir(parents=True, exist_ok=True)
        table = [
            {"mediaType": IMAGE + kind, "digest": self.blob(data), "size": len(data)}
            for kind, data in {"model": contents, **layers}.items()
        ]
        manifest.write_text(json.dumps({"schemaVersion": 2, "config": {}, "layers": table}))
        return self.root / "blobs" / f"sha256-{hashlib.sha256(contents).hexdigest()}"


@pytest.fixture
def ollama(host: Path) -> Ollama:
    made = Ollama(host / "ollama")
    made.model("registry.ollama.ai/library/llama3.2/latest", named("A"), template=b"x", license=b"y")
    made.model("registry.ollama.ai/library/qwen2.5/7b-instruct", named("B"))
    made.model("registry.ollama.ai/jane/own/latest", named("C"))
    made.model("hf.co/bartowski/X-GGUF/Q4_K_M", named("D"))
    return made


def test_ollamas_models_are_found_by_their_manifests(ollama: Ollama) -> None:
    ollama.model("registry.ollama.ai/library/tuned/latest", named("E"), adapter=b"lora")
    (ollama.root / "manifests/registry.ollama.ai/library/odd").mkdir()
    (ollama.root / "manifests/registry.ollama.ai/library/odd/latest").write_text("[]")
    evil = ollama.root / "manifests/registry.ollama.ai/library/odd/evil"
    evil.write_text(json.dumps({"layers": [{"mediaType": IMAGE + "model", "digest": "sha256:../../etc"}]}))
    found = {one.name: (one.known_as, one.problem) for one in elsewhere.find("ollama", [ollama.root])}
    assert found == {
        "llama3.2": ("llama3.2:latest", None),
        "qwen2.5-7b-instruct": ("qwen2.5:7b-instruct", None),
        "jane-own": ("jane/own:latest", None),
        "x-gguf-q4_k_m": ("hf.co/bartowski/X-GGUF:Q4_K_M", None),
        "tuned": ("tuned:latest", "has an adapter, which is not imported"),
    }


def test_import_lists_and_adds_without_copying(run: Run, ollama: Ollama, models: Path) -> None:
    code, out, _ = run("ollama", "--from", ollama.root)
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()[1:]] == [
        ["jane-own", "jane/own:latest"],
        ["llama3.2", "llama3.2:latest"],
        ["qwen2.5-7b-instruct", "qwen2.5:7b-instruct"],
        ["x-gguf-q4_k_m", "hf.co/bartowski/X-GGUF:Q4_K_M"],
    ]
    assert store.names() == []
    blob = ollama.model("registry.ollama.ai/library/llama3.2/latest", named("A"))
    code, out, _ = run("ollama", "llama3.2:latest", "--from", ollama.root)
    assert (code, store.names()) == (0, ["llama3.2"])
    assert settings.load("llama3.2").model == models / "llama3.2.gguf"
    assert settings.load("llama3.2").model.samefile(blob)
    (told,) = json.loads(
        run("ollama", "qwen2.5-7b-instruct", "--name", "q", "--from", ollama.root, "--json")[1]
    )
    assert (told["name"], told["linked"]) == ("q", True)
    assert run("ollama", "--all", "--from", ollama.root)[0] == 0
    assert store.names() == ["jane-own", "llama3.2", "q", "qwen2.5-7b-instruct", "x-gguf-q4_k_m"]
    listed = json.loads(run("ollama", "--from", ollama.root, "--json")[1])
    assert {one["name"]: one["installed"] for one in listed}["jane-own"] is True


def test_a_blob_that_is_not_what_its_name_says_is_refused(run: Run, ollama: Ollama) -> None:
    blob = ollama.model("registry.ollama.ai/library/bad/latest", named("X"))
    blob.write_bytes(named("Y"))
    code, _, err = run("ollama", "bad", "--from", ollama.root)
    assert (code, "is damaged: its sha256 is" in err) == (78, True)
    assert store.names() == []


def test_nothing_there_says_where_it_looked(run: Run, host: Path) -> None:
    assert f"no models of lmstudio in {host / 'nowhere'}" in run("lmstudio", "--from", host / "nowhere")[1]
    assert run("ollama", "x", "--from", host / "nowhere")[0] == 3
    assert run("ollama", "a", "b", "--name", "c")[0] == 2


def test_lm_studios_models_and_their_parts(run: Run, host: Path, models: Path) -> None:
    folder = host / "lms/publisher/Big-GGUF"
    folder.mkdir(parents=True)
    (folder / "Small.Q4_K_M.gguf").write_bytes(named("S"))
    (folder / "mmproj-Small.gguf").write_bytes(gguf(META | {"general.type": "mmproj"}))
    (host / "whole.gguf").write_bytes(gguf(tensors=[(f"t{i}", (256, 4), 12) for i in range(4)]))
    parts = split(host / "whole.gguf", folder, "Big", 2)
    found = elsewhere.find("lmstudio", [host / "lms"])
    assert [one.name for one in found] == ["big", "small.q4_k_m"]
    assert run("lmstudio", "--all", "--from", host / "lms")[0] == 0
    assert settings.load("big").model.samefile(parts[0])
    assert (models / "Big-00002-of-00002.gguf").samefile(parts[1])


def test_the_hubs_cache_as_huggingface_hub_makes_it(
    run: Run, hub: Hub, host: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (host / "whole.gguf").write_bytes(gguf(tensors=[(f"t{i}", (256, 4), 12) for i in range(4)]))
    (host / "split").mkdir()
    parts = split(host / "whole.gguf", host / "split", "Big", 2)
    files = {"Small.gguf": named("S"), **{f"Q8/{part.name}": part.read_bytes() for part in parts}}
    hub.repositories["owner/repo-GGUF"] = Repository(files)
    cache = host / "cache"
    for name in files:
        hf_hub_download("owner/repo-GGUF", name, cache_dir=cache, endpoint=hub.endpoint)
    found = elsewhere.find("hf-cache", [cache])
    assert [(one.name, one.known_as) for one in found] == [
        ("big", f"owner/repo-GGUF/Q8/{parts[0].name}"),
        ("small", "owner/repo-GGUF/Small.gguf"),
    ]
    assert found[1].sha256 == hashlib.sha256(files["Small.gguf"]).hexdigest()
    assert run("hf-cache", "--all", "--from", cache)[0] == 0
    for name, original in (("small.gguf", "Small.gguf"), ("Big-00002-of-00002.gguf", f"Q8/{parts[1].name}")):
        (source,) = cache.rglob(original.rpartition("/")[2])
        assert (models / name).samefile(source), "a link to the blob, not to the link"
        assert not (models / name).is_symlink()


@pytest.fixture
def other_disk(host: Path) -> Iterator[Path]:
    """Another file system, in a place that services may see."""
    place = Path("/run") / f"llmsvc-test-{os.getpid()}"
    if os.geteuid() != 0:
        pytest.skip("only root can mount a file system")
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "mode=0755", "tmpfs", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", place], check=True)
        place.rmdir()


def test_from_another_disk_a_model_is_used_where_it_lies(run: Run, other_disk: Path, conf: Config) -> None:
    there = Ollama(other_disk / "ollama")
    blob = there.model("registry.ollama.ai/library/far/latest", named("F"))
    (told,) = json.loads(run("ollama", "far", "--from", there.root, "--json")[1])
    assert (told["in_place"], told["linked"], told["file"]) == (True, False, str(blob))
    assert settings.load("far").model == blob
    assert store.remove("far", conf).files == []
    assert blob.exists()
    other_disk.chmod(0o700)
    code, _, err = run("ollama", "far", "--from", there.root)
    assert code == 1
    assert f"hint: use --copy or --move, or chmod a+x {other_disk}" in err


def test_the_usual_places_are_those_of_who_called_sudo_too(
    monkeypatch: pytest.MonkeyPatch, host: Path
) -> None:
    monkeypatch.setenv("SUDO_USER", "root")
    monkeypatch.setenv("HOME", str(host))
    monkeypatch.setenv("OLLAMA_MODELS", "/data/ollama")
    monkeypatch.setenv("HF_HOME", "/data/hf")
    assert elsewhere.places("ollama")[:3] == [
        Path("/data/ollama"), Path("/root/.ollama/models"), host / ".ollama/models",
    ]  # fmt: skip
    assert host / ".lmstudio/models" in elsewhere.places("lmstudio")
    assert Path("/data/hf/hub") in elsewhere.places("hf-cache")
