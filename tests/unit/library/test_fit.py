"""The estimate of memory, and the refusal of what is too big. With real models: tests/engine/test_fit.py."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path

import pytest

from llmsvc import env, process
from llmsvc.library import accelerators, fit, geometry, gguf, memory, settings
from llmsvc.library.memory import Holder, Room
from tests.unit.library import ggufs

GIGA = 10**9
# 32 layers of 8 heads of 128 for keys and values: 128 KiB a token in f16
META = {
    **ggufs.META,
    "llama.context_length": 32768,
    "llama.block_count": 32,
    "llama.embedding_length": 4096,
    "llama.feed_forward_length": 14336,
    "llama.attention.head_count": 32,
    "llama.attention.head_count_kv": 8,
}


def header(tmp_path: Path, **changed: ggufs.Value) -> gguf.Header:
    file = tmp_path / "m.gguf"
    file.write_bytes(
        ggufs.gguf({**META, **{key.replace("__", "."): value for key, value in changed.items()}})
    )
    return gguf.read_header(file)


def model(text: str) -> settings.ModelSettings:
    file = Path("/etc/llmsvc/models.d/m.env")
    return settings.parse("m", env.parse(f"MODEL=/m.gguf\n{text}", file), file)


def test_the_cache_has_every_layer_and_token(tmp_path):
    cache = fit.estimate(model("N_CTX=8192"), header(tmp_path)).cache
    assert cache == 8192 * 32 * 2 * 8 * 128 * 2


@pytest.mark.parametrize(
    ("changed", "per_layer"),
    [
        ({"llama__attention__head_count_kv": [8] * 16 + [0] * 16}, 8 * 128 / 2),
        ({"llama__attention__key_length": 256, "llama__attention__value_length": 64}, 8 * 160),
        ({"llama__attention__shared_kv_layers": 8}, 8 * 128 * 24 / 32),
        # of no use to llama-cpp-python, which keeps all of it
        ({"llama__attention__sliding_window": 512}, 8 * 128),
    ],
    ids=["heads differ from layer to layer", "lengths of a head", "layers that share", "sliding window"],
)
def test_what_the_header_says_of_the_cache_counts(tmp_path, changed, per_layer):
    cache = fit.estimate(model("N_CTX=8192"), header(tmp_path, **changed)).cache
    assert cache == 8192 * 32 * 2 * per_layer * 2


def test_a_header_that_is_silent_or_lies_gives_an_estimate_all_the_same(tmp_path):
    for heads in (0, 1, (1 << 31) - 1):
        changed = {"llama__attention__head_count": heads, "llama__attention__head_count_kv": heads}
        assert fit.estimate(model("N_CTX=512"), header(tmp_path, **changed)).needed > 0
    (tmp_path / "m.gguf").write_bytes(ggufs.gguf())
    assert fit.estimate(model("N_CTX=512"), gguf.read_header(tmp_path / "m.gguf")).cache == 0


def test_settings_change_what_is_needed(tmp_path):
    head = header(tmp_path)
    plain = fit.estimate(model("N_CTX=8192"), head)
    quantized = fit.estimate(model("N_CTX=8192\nFLASH_ATTN=1\nTYPE_K=q8_0\nTYPE_V=q8_0"), head)
    assert quantized.cache == plain.cache * 34 // 64
    assert fit.estimate(model("N_CTX=8192\nFLASH_ATTN=1"), head).needed < plain.needed
    assert fit.estimate(model("N_CTX=8192\nLOGITS_ALL=1"), head).needed > plain.needed
    assert fit.estimate(model("N_CTX=8192\nN_UBATCH=64"), head).needed < plain.needed


@pytest.mark.parametrize(("text", "n_ctx"), [("", 4096), ("N_CTX=0", 32768), ("N_CTX=1000", 1024)])
def test_the_context_is_the_one_the_backend_takes(tmp_path, text, n_ctx):
    assert fit.estimate(model(text), header(tmp_path)).n_ctx == n_ctx


def test_too_big_a_model_is_refused_with_numbers_and_what_would_fit(tmp_path):
    room = Room(4 * GIGA, running="smollm2", holders=(Holder("firefox", 71, "bob", 6 * GIGA),))
    config, head = model("N_CTX=32768"), header(tmp_path)
    with pytest.raises(fit.FitError) as refused:
        fit.check(config, head, room)
    assert "needs 7.8 GB of memory with N_CTX=32768" in refused.value.message
    assert "4.0 GB is free once smollm2 has stopped" in refused.value.message
    assert "firefox (pid 71, bob) 6.0 GB" in (refused.value.hint or "")
    largest = refused.value.details["largest_n_ctx"]
    assert f"N_CTX={largest} in {config.file} would fit" in (refused.value.hint or "")
    assert isinstance(largest, int)
    fit.check(model(f"N_CTX={largest}"), head, room)
    with pytest.raises(fit.FitError):
        fit.check(model(f"N_CTX={largest + 256}"), head, room)


def test_the_context_that_would_fit_is_never_more_than_what_was_trained(tmp_path):
    room = Room(20 * GIGA)
    assert fit.largest_context(model("N_CTX=1000000"), header(tmp_path), room) == 32768


def test_a_model_that_fits_with_no_context_is_told_so(tmp_path):
    with pytest.raises(fit.FitError) as refused:
        fit.check(model("N_CTX=512"), header(tmp_path), Room(50_000_000))
    assert "no context fits" in (refused.value.hint or "")


def test_a_limit_is_named_instead_of_other_processes(tmp_path):
    room = Room(GIGA, limit="is allowed by MemoryMax= of x.slice", holders=(Holder("a", 1, "b", GIGA),))
    with pytest.raises(fit.FitError) as refused:
        fit.check(model("N_CTX=32768"), header(tmp_path), room)
    assert "1.0 GB is allowed by MemoryMax= of x.slice" in refused.value.message
    assert "pid" not in (refused.value.hint or "")


# ---------------------------------------------------------------------------------------------------------
# A GPU


@pytest.fixture
def gpu(tmp_path, monkeypatch):
    """A tool nvidia-smi that says what it is given, and a llama_cpp that was built for it."""
    library = tmp_path / "llama_cpp"
    (library / "lib").mkdir(parents=True)
    (library / "lib" / "libggml-cuda.so").touch()
    found = dataclasses.make_dataclass("Spec", ["origin"])(str(library / "__init__.py"))
    monkeypatch.setattr(
        accelerators.importlib.util, "find_spec", lambda name: found if name == "llama_cpp" else None
    )
    monkeypatch.setattr(memory, "_DEV", tmp_path)
    (tmp_path / "nvidiactl").touch()
    monkeypatch.setattr(process, "PATH", f"{tmp_path}:{process.PATH}")

    def says(free: str, processes: str = "") -> None:
        tool = tmp_path / "nvidia-smi"
        tool.write_text(f"#!/bin/sh\ncase $1 in *free) printf '{free}' ;; *) printf '{processes}' ;; esac\n")
        tool.chmod(0o755)

    return says


def test_layers_on_a_gpu_need_its_memory_instead_of_ram(tmp_path, gpu):
    gpu("10000\\n")
    head = header(tmp_path)
    whole, half = (fit.estimate(model(f"N_CTX=32768\n{text}"), head) for text in ("", "N_GPU_LAYERS=16"))
    none = fit.estimate(model("N_CTX=32768\nGPU=none"), head)
    assert none.needed_gpu == 0 < half.needed_gpu < whole.needed_gpu
    assert whole.needed < half.needed < none.needed
    with pytest.raises(fit.FitError, match="of GPU memory with N_CTX=32768"):
        fit.check(model("N_CTX=32768"), head, Room(100 * GIGA, gpu=2 * GIGA))
    fit.check(model("N_CTX=32768\nN_GPU_LAYERS=0"), head, Room(100 * GIGA, gpu=0))


def test_the_native_engine_has_no_gpu_because_the_other_one_has(tmp_path, gpu):
    gpu("10000\n")
    head = header(tmp_path)
    assert fit.estimate(model("ENGINE=native"), head).needed_gpu == 0
    assert fit.estimate(model(""), head).needed_gpu > 0


def test_what_the_native_engine_was_built_for_is_told_by_what_it_is_linked_to(tmp_path):
    package = tmp_path / "lib/python3.11/site-packages/xllamacpp"
    package.mkdir(parents=True)
    library = package / "xllamacpp.abi3.so"
    for content, kinds in ((b"", set()), (b"libm.so.6\0", set()), (b"x\0libcuda.so.1\0", {"cuda"})):
        library.write_bytes(content)
        os.utime(library, ns=(1, len(content)))
        assert accelerators.of_environment(tmp_path) == kinds


def test_the_native_engine_keeps_the_window_of_a_layer_alone(tmp_path):
    """gemma3-270m: 18 layers, one head of 256 keys and values, a window of 512 in five of six layers."""
    shape = geometry.read(
        {
            "g.block_count": 18, "g.embedding_length": 640, "g.attention.head_count": 4,
            "g.attention.head_count_kv": 1, "g.attention.key_length": 256, "g.attention.value_length": 256,
            "g.attention.sliding_window": 512, "g.attention.sliding_window_pattern": 6,
        },
        "g",
        1000,
    )  # fmt: skip
    assert (shape.key_values, shape.window_key_values, shape.window_value_values) == (4608, 3840, 3840)
    head = dataclasses.replace(header(tmp_path), geometry=shape)
    whole = 8192 * 2 * 4608 * 2
    assert fit.estimate(model("N_CTX=8192"), head).cache == whole
    native = "N_CTX=8192\nENGINE=native\nSLOTS=2"
    assert fit.estimate(model(native), head).cache == 2 * (8192 * 2 * 768 + 768 * 2 * 3840) * 2
    assert fit.estimate(model(native + "\nSWA_FULL=1"), head).cache == 2 * whole


def test_free_memory_of_all_gpus_and_of_the_running_model_counts(gpu):
    gpu("1000\\n500\\n", "77, 200\\n78, 300\\n")
    assert memory._gpu_free(77) == 1700 << 20
    gpu("[N/A]\\n")
    assert memory._gpu_free(77) is None


def test_a_gpu_that_nobody_can_ask_refuses_no_model_that_it_may_hold(tmp_path, gpu):
    head = header(tmp_path)
    assert memory._gpu_free(77) is None  # nvidia-smi is not there
    fit.check(model("N_CTX=32768"), head, Room(2 * GIGA))
    (tmp_path / "nvidiactl").unlink()
    with pytest.raises(fit.FitError):
        fit.check(model("N_CTX=32768"), head, Room(2 * GIGA))


def test_a_tool_that_hangs_tells_nothing(tmp_path, gpu, monkeypatch):
    gpu("1000\\n")
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
    monkeypatch.setattr(memory, "_NVIDIA_SMI_SECONDS", 0.1)
    assert memory._gpu_free(77) is None
