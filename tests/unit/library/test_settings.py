"""The keys of models.d/NAME.env."""

import os
from pathlib import Path

import pytest

from llmsvc import paths
from llmsvc.errors import SettingError
from llmsvc.library import settings


def load(tmp_path: Path, text: str) -> settings.ModelSettings:
    file = tmp_path / "m.env"
    file.write_text(text)
    return settings.load("m", file)


def test_values_know_where_they_come_from(tmp_path):
    model = load(tmp_path, '# a comment\nMODEL=/x/y.gguf\nN_CTX=2048\nTYPE_K="q8_0"\nN_BATCH=\n')
    assert model.model == Path("/x/y.gguf")
    assert model["N_CTX"] == 2048
    assert model["TYPE_K"] == 8
    assert model["N_THREADS"] is None
    assert model["N_BATCH"] == 512
    assert model.source("N_CTX") == f"{tmp_path}/m.env:3"
    assert model.source("N_BATCH") == model.source("USE_MMAP") == "default"


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (2, 2), (3, 2), (16, 15)])
def test_threads_leave_a_core_where_there_are_more_than_two(tmp_path, monkeypatch, cores, threads):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(cores), raising=False)
    assert load(tmp_path, "MODEL=/x/y.gguf\n").threads == threads
    assert load(tmp_path, "MODEL=/x/y.gguf\nN_THREADS=7\n").threads == 7


def test_a_relative_model_lies_in_the_models_directory(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CONFIG_ENV", tmp_path / "config.env")
    (tmp_path / "config.env").write_text("LLAMA_MODELS_DIR=/data/llm\n")
    assert load(tmp_path, "MODEL=a/b.gguf\n").model == Path("/data/llm/a/b.gguf")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("N_CTX=-1", "N_CTX: must be a whole number from 0 to 16777216, not '-1'"),
        ("N_THREADS=0", "N_THREADS: must be a whole number from 1"),
        ("USE_MMAP=maybe", "USE_MMAP: must be 1 or 0"),
        ("TYPE_K=q9", "TYPE_K: must be one of f32, f16"),
        ("SPLIT_MODE=3", "SPLIT_MODE: must be one of none, layer, row"),
        ("TENSOR_SPLIT=1,x", "TENSOR_SPLIT: must be a number"),
        ("CHAT_TEMPLATE_KWARGS=[1]", "CHAT_TEMPLATE_KWARGS: must be a JSON object"),
        ("KV_OVERRIDES=a=b", "KV_OVERRIDES: must be KEY=TYPE:VALUE"),
        ("GPU=first", "GPU: must be all, none"),
        ("ENGINE=vllm", "ENGINE: must be one of llama-cpp-python, native"),
        ("SLOTS=4", "SLOTS: works with ENGINE=native only"),
        ("LOGITS_ALL=1\nENGINE=native", "LOGITS_ALL: works with ENGINE=llama-cpp-python only"),
        ("CACHE_RAM=9\nCACHE_PER_USER=1\nENGINE=native", "CACHE_RAM: would be shared by all users"),
        ("SLOTS=0\nENGINE=native", "SLOTS: must be a whole number from 1"),
        ("LORA_PATH=x", "LORA_PATH: must be an absolute path"),
        ("TYPE_V=q8_0", "TYPE_V: a quantized value cache needs FLASH_ATTN=1"),
        ("RPC_SERVERS=x:1", "RPC_SERVERS: is not allowed: its protocol has no authentication"),
        ("N_CTXT=1", "N_CTXT: unknown setting"),
        ("LLAMA_API_KEY=hush", "LLAMA_API_KEY: a secret does not belong"),
        ("what is this", "expected KEY=value"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, message):
    with pytest.raises(SettingError) as caught:
        load(tmp_path, f"MODEL=/x.gguf\n{line}\n")
    assert str(caught.value).startswith(f"{tmp_path}/m.env:2: {message}")
    assert "hush" not in str(caught.value)
    assert caught.value.exit_code == 78


def test_a_slip_gets_a_hint(tmp_path):
    with pytest.raises(SettingError) as caught:
        load(tmp_path, "MODEL=/x.gguf\nN_CTXT=1\n")
    assert caught.value.hint == "did you mean N_CTX?"


def test_require_gpu_does_not_go_with_no_gpu(tmp_path):
    for line in ("GPU=none", "N_GPU_LAYERS=0"):
        with pytest.raises(SettingError, match=f"{line.split('=')[0]}: contradicts REQUIRE_GPU"):
            load(tmp_path, f"MODEL=/x.gguf\nREQUIRE_GPU=1\n{line}\n")


def test_without_a_file_or_a_model_it_says_so(tmp_path):
    with pytest.raises(SettingError, match="there is no such file"):
        settings.load("m", tmp_path / "absent.env")
    with pytest.raises(SettingError, match="MODEL: must name a GGUF file"):
        load(tmp_path, "N_CTX=1\n")
    with pytest.raises(SettingError, match="cannot name a model"):
        settings.load("../x")


def test_every_default_is_allowed():
    for setting in settings.SETTINGS:
        if setting.default:
            setting.parse(setting.default)
        assert setting.doc.endswith(".")


def test_the_engine_is_the_machines_unless_the_model_says_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "CONFIG_ENV", tmp_path / "config.env")
    assert load(tmp_path, "MODEL=/x.gguf\n")["ENGINE"] == "llama-cpp-python"
    (tmp_path / "config.env").write_text("LLAMA_ENGINE=native\n")
    model = load(tmp_path, "MODEL=/x.gguf\n")
    assert (model["ENGINE"], model.slots) == ("native", settings.DEFAULT_SLOTS)
    assert load(tmp_path, "MODEL=/x.gguf\nSLOTS=2\n").slots == 2
    assert load(tmp_path, "MODEL=/x.gguf\nENGINE=llama-cpp-python\n").slots == 1
