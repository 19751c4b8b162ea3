"""Leaves in the environment only what selects and drives a GPU, and what systemd tells its services.

llama_cpp reads its settings from variables without a prefix: a stray HOST, SEED or CACHE would change it.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path

_KEPT = {
    "HOME", "INVOCATION_ID", "JOURNAL_STREAM", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "NOTIFY_SOCKET", "PATH",
    "TMPDIR", "TZ", "WATCHDOG_PID", "WATCHDOG_USEC",
}  # fmt: skip
_KEPT_PREFIXES = ("CUDA_", "GGML_", "GPU_", "HIP_", "HSA_", "NVIDIA_", "ROCR_", "VK_")
_AMD = Path("/dev/kfd")


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
    # Spinning threads of two processes on the same cores slow each other to a third.
    environ["OMP_WAIT_POLICY"] = "passive"


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
