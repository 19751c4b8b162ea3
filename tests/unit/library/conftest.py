"""A host of its own for each test: /etc/llmsvc, /run/llama-server and the library below tmp_path."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from huggingface_hub.utils import close_session  # type: ignore[attr-defined]

from llmsvc import config, paths
from llmsvc.library import download
from tests.hub import Hub, running
from tests.unit.library.ggufs import gguf


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    etc = tmp_path / "etc"
    (etc / "models.d").mkdir(parents=True)
    monkeypatch.setattr(paths, "CONFIG_ENV", etc / "config.env")
    monkeypatch.setattr(paths, "MODELS_D", etc / "models.d")
    monkeypatch.setattr(paths, "DEFAULT_MODEL", etc / "default-model")
    monkeypatch.setattr(paths, "CREDENTIALS", etc / "credentials")
    monkeypatch.setattr(paths, "RUN_INSTANCES", tmp_path / "run")
    monkeypatch.setattr(paths, "GOOD_MODELS", tmp_path / "good-models")
    monkeypatch.setattr(paths, "USED_MODELS", tmp_path / "used-models")
    monkeypatch.setattr(paths, "UNITS", tmp_path / "units")
    monkeypatch.setattr(paths, "SETTINGS_LOCK", tmp_path / "settings.lock")
    (etc / "config.env").write_text(f"LLAMA_MODELS_DIR={tmp_path / 'models'}\n")
    return tmp_path


@pytest.fixture
def conf(host: Path) -> config.Config:
    return config.load(host / "etc/config.env")


@pytest.fixture
def models(conf: config.Config) -> Path:
    """The directory of the library; it does not exist at first."""
    return conf.llama_models_dir


@pytest.fixture
def model_file(host: Path) -> Path:
    """A complete GGUF somewhere on the host."""
    file = host / "Some Model.Q4_K_M.gguf"
    file.write_bytes(gguf())
    file.chmod(0o644)
    return file


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """The hub that HF_ENDPOINT names, without any repository; a further try comes at once."""
    with running() as server:
        monkeypatch.setenv("HF_ENDPOINT", server.endpoint)
        for name in ("HF_TOKEN", "HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(download, "PAUSES", (0.0, 0.0))
        close_session()
        yield server
        close_session()
