"""Leaves in the environment only what selects and drives a GPU, and what systemd tells its services.

llama_cpp reads its settings from variables without a prefix: a stray HOST, SEED or CACHE would change it.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

_KEPT = {
    "GOMP_SPINCOUNT", "HOME", "INVOCATION_ID", "JOURNAL_STREAM", "LANG", "LC_ALL", "LD_LIBRARY_PATH",
    "NOTIFY_SOCKET", "PATH", "TMPDIR", "TZ", "WATCHDOG_PID", "WATCHDOG_USEC",
}  # fmt: skip
_KEPT_PREFIXES = ("CUDA_", "GGML_", "GPU_", "HIP_", "HSA_", "NVIDIA_", "ROCR_", "VK_")
_AMD = Path("/dev/kfd")
_SPINS = "500"
"""How often a waiting thread looks before it sleeps: some microseconds.

Measured with two threads on two cores, native engine, 8 clients, tokens/s idle and beside a busy loop: 0 129
and 95, 200 188 and 83, 500 173 and 88, 5000 179 and 48, 50000 187 and 7 (one thread: 99 and 98).
"""


def clean(gpu: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """Cleans the environment; to be called before llama_cpp or numpy are imported.

    :param gpu: the model's GPU setting: `all`, `none`, or numbers or UUIDs with commas between
    """
    for key in list(environ):
        if key not in _KEPT and not key.startswith(_KEPT_PREFIXES):
            del environ[key]
    environ.update(_selection(gpu))
    # A crash would first start gdb for a backtrace, which may hold prompts, and take a second for it.
    environ["GGML_NO_BACKTRACE"] = "1"
    # llama.cpp's threads wait for each other hundreds of times a token, on cores that the proxy and the
    # database use, too. One that sleeps at once costs more than half of the speed; one that spins long is in
    # the way of the thread that it waits for. `active` makes libgomp keep to the number also beside threads
    # of another pool (gomp_throttled_spin_count_var in its env.c); alone it would spin for minutes.
    environ.setdefault("GOMP_SPINCOUNT", _SPINS)
    environ["OMP_WAIT_POLICY"] = "active"


def _selection(gpu: str) -> dict[str, str]:
    """The variables by which the drivers are told."""
    if gpu == "all":
        return {}
    if gpu == "none":
        return {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "GGML_VK_VISIBLE_DEVICES": ""}
    if gpu[0].isdigit():
        return dict.fromkeys(("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GGML_VK_VISIBLE_DEVICES"), gpu)
    # HIP counts among what ROCr lets through, and knows no UUIDs itself; it also reads CUDA's variable
    return {"ROCR_VISIBLE_DEVICES" if _AMD.exists() else "CUDA_VISIBLE_DEVICES": gpu}
