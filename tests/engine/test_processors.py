"""What the wheelhouse's llama-cpp-python runs on: any processor with x86-64-v2, here as QEMU plays them."""

from __future__ import annotations

import json
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmsvc.library import processor

PROCESSORS = ("Nehalem", "SandyBridge", "Haswell")
"""Of 2008 without AVX, of 2011 without AVX2, of 2013."""
SCRIPT = """
import json, sys
from llmsvc.backend.llama_cpp_python import internals
internals.load_kernels()
import llama_cpp
model = llama_cpp.Llama(sys.argv[1], n_ctx=64, n_threads=1, n_threads_batch=1, verbose=False)
answer = model.create_completion("One, two, three,", max_tokens=3, temperature=0)["choices"][0]["text"]
loaded = [line.split("/")[-1].strip() for line in open("/proc/self/maps") if "libggml-cpu" in line]
print(json.dumps([answer, sorted(set(loaded))]))
"""


def answer(models: Path, *emulator: str) -> tuple[str, list[str]]:
    """What the model says, and which libraries of kernels were chosen."""
    command = [*emulator, sys.executable, "-c", SCRIPT, models / "smollm2.gguf"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"{done.returncode}: {done.stderr[-2000:]}"
    text, loaded = json.loads(done.stdout.splitlines()[-1])
    return text, loaded


@pytest.mark.skipif(platform.machine() != "x86_64", reason="of processors of that kind")
@pytest.mark.parametrize("kind", PROCESSORS)
def test_an_old_processor_gives_the_same_answer(
    kind: str, models: Path, request: pytest.FixtureRequest
) -> None:
    if kind != PROCESSORS[0] and not request.config.getoption("--long"):
        pytest.skip("the newer ones with --long")
    if not (qemu := shutil.which("qemu-x86_64")):
        pytest.skip("there is no qemu-x86_64; tests/run installs it")
    text, loaded = answer(models, qemu, "-cpu", kind)
    # whatever is loaded for its score is closed again
    assert len(loaded) == 1 and loaded != answer(models)[1]
    assert text == answer(models)[0]


def test_what_the_engine_needs_is_told_beside_it() -> None:
    needs = processor._needs("llama-cpp-python")
    if platform.machine() == "x86_64":
        assert "sse4_2" in needs and "avx" not in needs
    assert processor.lacking("llama-cpp-python") == []
