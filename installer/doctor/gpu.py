"""The GPU: what the engine was built for, the machine has, the sandbox lets through, and a model uses."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path

from installer.doctor.finding import INSTALL, Finding, error, warning
from installer.doctor.host import Host
from installer.facts import gpu_hardware
from llmsvc import paths
from llmsvc.errors import SettingError
from llmsvc.library import accelerators, settings

DEV = Path("/dev")
_NODES = {
    "nvidia": ("nvidiactl", "dxg"),
    "amd": ("kfd",),
    "drm": ("dri",),
}
"""The kinds of the units' device rules, and the nodes of which one is needed."""
_RULES = (("nvidia", "char-nvidia"), ("amd", "char-kfd"), ("drm", "char-drm"))
_CPU_ONLY = "every model runs on the CPU, many times slower, or with REQUIRE_GPU=1 not at all"
_SECONDS = 3.0


def check(host: Host) -> Iterator[Finding]:
    """From the engine to the layers."""
    built = _built_for()
    kind = _unit_kind()
    missing = [name for name in (kind, *built) if name and not _there(name)]
    if missing:
        nodes = " or ".join(f"{DEV / node}" for name in dict.fromkeys(missing) for node in _NODES[name])
        yield error(
            "gpu-gone",
            f"there is no {nodes}, which the engine and its unit were set up for",
            _CPU_ONLY,
            "is the driver loaded? 'lspci -k | grep -A3 -i vga' and, for NVIDIA, 'nvidia-smi' tell; "
            "once its device nodes are there again, sudo llmsvc restart",
        )
        return
    if kind == "nvidia" and not (DEV / "nvidia-uvm").exists() and (DEV / "nvidiactl").exists():
        yield error(
            "gpu-uvm",
            f"there is no {DEV / 'nvidia-uvm'}",
            f"CUDA cannot start in the sandbox, which may not load it: {_CPU_ONLY}",
            "sudo modprobe nvidia-uvm && echo nvidia-uvm | sudo tee /etc/modules-load.d/nvidia-uvm.conf && "
            "sudo llmsvc restart",
        )
    if built and kind is None:
        yield error(
            "gpu-sandbox",
            "the engine was built for a GPU that is here, but the unit of the models lets none through",
            _CPU_ONLY,
            INSTALL,
        )
    for name in host.models:
        yield from _model(host, name, bool(built))


def _model(host: Host, name: str, built: bool) -> Iterator[Finding]:
    try:
        loaded = settings.load(name)
    except SettingError:
        return
    if loaded["REQUIRE_GPU"] and not built:
        yield error(
            "gpu-engine",
            f"{loaded.source('REQUIRE_GPU')}: {name} requires a GPU, its engine is for the CPU",
            f"the model {name} does not start",
            f"{host.repair} --accel auto" if gpu_hardware() else f"sudo llmsvc model set {name} REQUIRE_GPU=",
        )
    if name in host.running and built and loaded["GPU"] != "none" and loaded["N_GPU_LAYERS"] != 0:
        told = _health(name)
        if told is not None and not told.get("n_gpu_layers"):
            yield warning(
                "gpu-unused",
                f"{name} runs on {told.get('device', 'the CPU')}: no layer of it is on the GPU",
                "it answers many times slower than it could",
                f"journalctl -u llama-server@{name} -b | grep -i -e gpu -e cuda",
            )


def _built_for() -> list[str]:
    """The kinds of GPU that the engines in the services' environment were built for."""
    kinds = {"cuda": "nvidia", "hip": "amd", "vulkan": "drm"}
    return sorted(kinds[kind] for kind in accelerators.of_environment(paths.VENV))


def _unit_kind() -> str | None:
    """What the installed unit's device rules are for."""
    unit = "llama-server@.service"
    try:
        text = (paths.UNITS / unit).read_text(encoding="utf-8")
    except OSError:
        return None
    text += "".join(file.read_text(encoding="utf-8") for file in paths.DROP_INS.glob(f"{unit}.d/*.conf"))
    allowed = [line.partition("=")[2] for line in text.splitlines() if line.startswith("DeviceAllow=")]
    return next((kind for kind, rule in _RULES if any(a.startswith(rule) for a in allowed)), None)


def _there(kind: str) -> bool:
    return any((DEV / node).exists() for node in _NODES[kind])


def _health(name: str) -> dict[str, object] | None:
    """What the backend tells of itself; None where it does not answer."""
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(_SECONDS)
            connection.connect(str(paths.instance_socket(name)))
            connection.sendall(b"GET /health HTTP/1.1\r\nHost: backend\r\nConnection: close\r\n\r\n")
            response = http.client.HTTPResponse(connection)
            response.begin()
            told = json.loads(response.read())
    except (OSError, ValueError, http.client.HTTPException):
        return None
    return told if isinstance(told, dict) else None
