"""The process of llama.cpp's server: reads its parameters as JSON from stdin, writes a line when it is ready.

It says nothing else on stdout, and its log goes to stderr. It ends when stdin does, or with its parent.
"""

from __future__ import annotations

import ctypes
import enum
import json
import os
import signal
import sys
from typing import Any

_PR_SET_PDEATHSIG = 1
_END_SECONDS = 5


def main() -> None:
    """Serves until stdin ends."""
    # the parent drains; llama.cpp would end at once, and it takes its handlers back after the load
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT, signal.SIGHUP})
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    given = json.loads(sys.stdin.readline())
    if os.getppid() != given["parent"]:
        return
    # what stdout is for llama.cpp is none of ours
    ready = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import xllamacpp

    params = xllamacpp.CommonParams()
    for name, value in given["params"].items():
        _set(xllamacpp, params, name, value)
    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        # the log says why, by a thread for which only a regular end waits; should that hang, it is cut short
        signal.alarm(_END_SECONDS)
        sys.exit(1)
    print("ready", file=ready, flush=True)
    sys.stdin.read()
    # a destructor that waits for what still runs would be no end
    assert server
    os._exit(0)


def _set(xllamacpp: Any, params: Any, name: str, value: Any) -> None:
    *path, last = name.split(".")
    for step in path:
        params = getattr(params, step)
    if last == "lora_adapters":
        value = [xllamacpp.CommonAdapterLoraInfo(path, scale) for path, scale in value]
    elif last == "model_alias":
        value = set(value)
    elif isinstance(default := getattr(params, last), enum.Enum):
        value = type(default)(value)
    elif last == "tensor_split":
        value = [*value, *[0.0] * (len(default) - len(value))]
    setattr(params, last, value)


if __name__ == "__main__":
    main()
