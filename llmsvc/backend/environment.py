"""Leaves in the environment only what selects and drives a GPU, and what systemd tells its services.

llama_cpp reads its settings from variables without a prefix: a stray HOST, SEED or CACHE would change it.
"""

from __future__ import annotations

import os
from collections.abc import MutableMapping

_KEPT = {
    "HOME", "INVOCATION_ID", "JOURNAL_STREAM", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "NOTIFY_SOCKET", "PATH",
    "TMPDIR", "TZ", "WATCHDOG_PID", "WATCHDOG_USEC",
}  # fmt: skip
_KEPT_PREFIXES = ("CUDA_", "GGML_", "GPU_", "HIP_", "HSA_", "NVIDIA_", "ROCR_", "VK_")
_SELECTORS = (
    "CUDA_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "GGML_VK_VISIBLE_DEVICES",
)


def clean(gpu: str, environ: MutableMapping[str, str] = os.environ) -> None:
    """Cleans the environment; to be called before llama_cpp or numpy are imported.

    :param gpu: the model's GPU setting: `all`, `none`, or numbers or UUIDs with commas between
    """
    for key in list(environ):
        if key not in _KEPT and not key.startswith(_KEPT_PREFIXES):
            del environ[key]
    if gpu != "all":
        for key in _SELECTORS:
            environ[key] = "" if gpu == "none" else gpu
    # A crash would first start gdb for a backtrace, which may hold prompts, and take a second for it.
    environ["GGML_NO_BACKTRACE"] = "1"
    # Spinning threads of two processes on the same cores slow each other to a third.
    environ["OMP_WAIT_POLICY"] = "passive"
