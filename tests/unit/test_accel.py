"""packaging/accel.sh: which GPU is found, which wheel fits its driver; nothing is compiled unasked."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from installer import facts

ROOT = Path(__file__).parents[2]
INFO = "llama_cpp_python-1.2.3.dist-info"


def bash(script: str, **environ: str) -> subprocess.CompletedProcess[str]:
    source = f'set -eu; . "{ROOT}/packaging/common.sh"; . "{ROOT}/packaging/accel.sh"; {script}'
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", source],
        capture_output=True,
        text=True,
        env={"PATH": path, "TMPDIR": os.environ.get("TMPDIR", "/tmp"), **environ},
        stdin=subprocess.DEVNULL,
    )


def pci(root: Path, *devices: tuple[str, str]) -> None:
    for number, (kind, vendor) in enumerate(devices):
        place = root / "sys/bus/pci/devices" / f"0000:0{number}:00.0"
        place.mkdir(parents=True)
        (place / "class").write_text(f"{kind}\n")
        (place / "vendor").write_text(f"{vendor}\n")


@pytest.mark.parametrize(
    ("devices", "nodes", "expected", "hardware"),
    [
        ([], [], "cpu", None),
        ([("0x010802", "0x10de"), ("0x030000", "0x8086")], [], "cpu", None),
        ([("0x030000", "0x8086"), ("0x030200", "0x10de")], [], "cuda", "NVIDIA GPU (cuda)"),
        ([], ["nvidiactl"], "cuda", "NVIDIA GPU (cuda)"),
        ([], ["dxg"], "cuda", "NVIDIA GPU (cuda)"),
        ([("0x030000", "0x1002")], [], "vulkan", "AMD GPU (rocm or vulkan)"),
        ([("0x038000", "0x1002")], ["kfd"], "rocm", "AMD GPU (rocm or vulkan)"),
    ],
)
def test_the_gpu_is_found(
    tmp_path: Path, devices: list[tuple[str, str]], nodes: list[str], expected: str, hardware: str | None
) -> None:
    pci(tmp_path, *devices)
    (tmp_path / "dev").mkdir()
    for node in nodes:
        (tmp_path / "dev" / node).touch()
    assert bash(f"detect_accel {tmp_path}").stdout == f"{expected}\n"
    assert facts.gpu_hardware(tmp_path / "sys", tmp_path / "dev") == hardware


@pytest.fixture
def index(tmp_path: Path) -> Path:
    """An index with llama-cpp-python 1.2.3 for CUDA 12.1 and 12.4, and nvidia-smi of a driver in `bin`."""
    metadata = {
        f"{INFO}/METADATA": "Metadata-Version: 2.1\nName: llama-cpp-python\nVersion: 1.2.3\n",
        f"{INFO}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    for cuda in ("cu121", "cu124"):
        place = tmp_path / cuda / "llama-cpp-python"
        place.mkdir(parents=True)
        wheel = place / "llama_cpp_python-1.2.3-py3-none-any.whl"
        record = []
        with zipfile.ZipFile(wheel, "w") as archive:
            for name, text in {**metadata, "made_for": cuda}.items():
                archive.writestr(name, text)
                digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).decode().rstrip("=")
                record.append(f"{name},sha256={digest},{len(text)}")
            archive.writestr(f"{INFO}/RECORD", "\n".join(record))
        (place / "index.html").write_text(f'<a href="{wheel.name}">{wheel.name}</a>')
    return tmp_path


def prebuilt(index: Path, kind: str, version: str, cuda: str) -> tuple[int, str | None]:
    """The status of prebuilt_engine, and for which CUDA the wheel was that it got."""
    (index / "bin").mkdir()
    tool = index / "bin/nvidia-smi"
    tool.write_text(f"#!/bin/sh\necho '| NVIDIA-SMI 550.1  Driver Version: 550.1  CUDA Version: {cuda}  |'\n")
    libraries = index / "bin/ldconfig"
    libraries.write_text("#!/bin/sh\necho '  libcudart.so.12 (libc6,x86-64) => /usr/lib/libcudart.so.12'\n")
    for file in (tool, libraries):
        file.chmod(0o755)
    done = bash(
        f'PATH={index}/bin:$PATH; prebuilt_engine {kind} {version} "{index}/got"',
        LLMSVC_ENGINE_INDEX=f"file://{index}",
    )
    for wheel in (index / "got").glob("*.whl"):
        with zipfile.ZipFile(wheel) as archive:
            return done.returncode, archive.read("made_for").decode()
    return done.returncode, None


@pytest.mark.parametrize(
    ("kind", "version", "cuda", "expected"),
    [
        ("cuda", "1.2.3", "12.4", (0, "cu124")),
        ("cuda", "1.2.3", "12.8", (0, "cu124")),
        ("cuda", "1.2.3", "12.2", (0, "cu121")),
        ("cuda", "1.2.3", "12.0", (1, None)),
        ("cuda", "1.2.3", "11.8", (1, None)),
        ("cuda", "1.2.3", "13.0", (0, "cu124")),
        ("cuda", "1.2.4", "12.4", (1, None)),
        ("vulkan", "1.2.3", "12.4", (1, None)),
    ],
)
def test_only_a_wheel_of_this_version_for_this_driver_is_taken(
    index: Path, kind: str, version: str, cuda: str, expected: tuple[int, str | None]
) -> None:
    assert prebuilt(index, kind, version, cuda) == expected


@pytest.mark.parametrize(
    ("kind", "tool", "flag"),
    [("cuda", "nvcc", "CUDA"), ("rocm", "hipcc", "HIP"), ("vulkan", "glslc", "VULKAN")],
)
def test_compiling_is_told_and_asked_for(tmp_path: Path, kind: str, tool: str, flag: str) -> None:
    lacking = bash(
        f"trap - EXIT; PATH=/nonexistent; compile_for {kind} 1.2.3", TMPDIR=str(tmp_path), CUDA_HOME="/x"
    )
    assert lacking.returncode == 1 and f"{tool} is not installed" in lacking.stderr
    assert "minutes on 4 cores" in lacking.stderr and "--accel cpu" in lacking.stderr
    (tmp_path / tool).write_text("#!/bin/sh\n")
    (tmp_path / tool).chmod(0o755)
    nobody = bash(f"PATH={tmp_path}:$PATH; compile_for {kind} 1.2.3")
    assert nobody.returncode == 1 and "no terminal to ask on" in nobody.stderr
    agreed = bash(f"PATH={tmp_path}:$PATH; yes=yes; compile_for {kind} 1.2.3; echo $CMAKE_ARGS")
    assert (agreed.returncode, agreed.stdout) == (0, f"-DGGML_{flag}=on\n")
