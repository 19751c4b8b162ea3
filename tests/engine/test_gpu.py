"""The backend on a real GPU: only where llama-cpp-python was built for one and there is one."""

import concurrent.futures
import functools
import subprocess
import sys
import time

import pytest

_HAS_ONE = {
    "llama-cpp-python": "import llama_cpp, sys; sys.exit(not llama_cpp.llama_supports_gpu_offload())",
    "native": "import xllamacpp as x, sys; sys.exit(all(d['name'] == 'CPU' for d in x.get_device_info()))",
}


@functools.cache
def _there_is_one(engine: str) -> bool:
    return subprocess.run([sys.executable, "-c", _HAS_ONE[engine]], capture_output=True).returncode == 0


@pytest.fixture(scope="module", autouse=True)
def _only_where_there_is_one(engine):
    if not _there_is_one(engine):
        pytest.skip(f"no GPU, or {engine} was not built for it")


MODEL = "MODEL={models}/smollm2.gguf\nN_CTX=8192\n"
LONG = {"prompt": "word " * 7000, "max_tokens": 1}


@pytest.fixture(scope="module")
def gpu(start_shared):
    backend = start_shared(MODEL + "REQUIRE_GPU=1\n")
    backend.wait_for("READY=1", 120)
    return backend


def test_every_layer_is_on_the_gpu_and_health_says_so(gpu):
    health = gpu.client.get("/health").json()
    assert health["n_gpu_layers"] >= health["n_layers"] > 0
    assert health["device"].startswith(("CUDA", "ROCm", "Vulkan"))


def test_a_gpu_that_the_model_may_not_use_is_not_used(start):
    backend = start(MODEL + "GPU=none\n")
    backend.wait_for("READY=1", 120)
    health = backend.client.get("/health").json()
    assert (health["device"], health["n_gpu_layers"]) == ("cpu", 0)


def test_a_required_gpu_that_is_not_there_is_told_in_one_line(start):
    backend = start(MODEL + "REQUIRE_GPU=1\nGPU=9\n")
    assert backend.finish(120) != 0
    assert backend.output.count("\n") == 1
    assert "no layer got onto a GPU" in backend.output


def test_answers_are_those_of_the_cpu(gpu, smollm2):
    body = {"prompt": "The capital of France is", "max_tokens": 12, "temperature": 0}
    texts = [one.post("/v1/completions", body).json()["choices"][0]["text"] for one in (gpu, smollm2)]
    # rounding differs, so a later token may
    assert texts[0][:20] == texts[1][:20]


@pytest.mark.parametrize("stream", [False, True])
def test_a_cancel_in_a_long_prompt_frees_the_gpu_within_a_second(gpu, stream):
    with concurrent.futures.ThreadPoolExecutor() as pool:
        request_id = f"gpu-{stream}"
        sent = pool.submit(
            gpu.post, "/v1/completions", {**LONG, "stream": stream}, **{"x-request-id": request_id}
        )
        deadline = time.monotonic() + 20
        while not gpu.client.get("/health").json()["busy_since"] and not sent.done():
            assert time.monotonic() < deadline
        begun = time.monotonic()
        gpu.post(f"/cancel/{request_id}", {})
        assert time.monotonic() - begun < 1
        sent.result()
    assert gpu.chat(max_tokens=1).status_code == 200
