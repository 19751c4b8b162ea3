"""A host of its own for each test: /etc/llmsvc, /run/llama-server and the library below tmp_path."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmsvc import config, paths
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
