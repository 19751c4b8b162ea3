"""Keeps llama.cpp's log while a model loads: the reason of a failure, the devices and the layers.

Once the model is READY nothing of it is kept or written, for errors of a request quote the request; only that
a GPU is lost is still seen.
"""

from __future__ import annotations

import collections
import ctypes
import importlib
import logging
import re
from collections.abc import Callable

log = logging.getLogger(__name__)

_LEVEL_WARN, _LEVEL_ERROR, _LEVEL_CONT = 3, 4, 5  # enum ggml_log_level, ggml.h
_DEVICE = re.compile(r"using device (\w+) \((.*?)\)")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_MEMORY = re.compile(
    r"fail\w* to (m?alloc|mmap)|unable to allocate|out of memory|outof\w*memory|cannot allocate|bad_alloc",
    re.I,
)
_LOST = re.compile(r"\b(cuda|rocm|hip|musa|sycl) error\b|device ?lost", re.I)
_GPU = re.compile(r"\b(cuda|hip|rocm|vulkan|ggml_cuda|ggml_vk|gpu)\w*\b.*(error|fail)", re.I)
_PREFIX = re.compile(r"^(\w+: )*(error loading model: |failed to )?")

_FOREVER: list[object] = []
"""Callbacks: llama.cpp calls them also while it frees a model, at the very end of the process."""


class Log:
    """What llama.cpp said since the last start().

    :param lost: called, once, with the words in which a GPU's driver says that it is lost
    """

    def __init__(self, lost: Callable[[str], None]) -> None:
        llama_cpp = importlib.import_module("llama_cpp")
        self.devices: list[str] = []
        self.offloaded: tuple[int, int] | None = None
        """Layers on the GPU, and layers in all, as llama.cpp counts them."""
        self.lost = False
        """Whether a GPU was lost: nothing works any more until the process ends."""
        self._tell_lost = lost
        self._problems: collections.deque[str] = collections.deque(maxlen=50)
        self._line = ""
        self._level = 0
        self._open = False
        callback = llama_cpp.llama_log_callback(self._receive)
        llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
        _FOREVER.append(callback)

    def start(self) -> None:
        """Begins to keep what is said."""
        self._open = True

    def stop(self) -> None:
        """Forgets the problems and keeps nothing more."""
        self._open = False
        self._problems.clear()

    def reason(self) -> str | None:
        """The most telling line among the problems, without names of C functions; None if there was none."""
        lines = [line for line in self._problems if "error loading model: " in line] or list(self._problems)
        return _PREFIX.sub("", lines[0])[:300] if lines else None

    def memory(self) -> str | None:
        """The line that says that memory was short."""
        return next((line[:300] for line in self._problems if _MEMORY.search(line)), None)

    def gpu(self) -> str | None:
        """The line in which a GPU's driver complains."""
        return next((line[:300] for line in self._problems if _GPU.search(line)), None)

    def _receive(self, level: int, text: bytes, _data: object) -> None:
        if not self._open:
            # the lines of CUDA's end come whole
            if level == _LEVEL_ERROR and not self.lost:
                self._check_lost(" ".join(text.decode("utf-8", "replace").split()))
            return
        if level != _LEVEL_CONT:
            self._level = level
        self._line += text.decode("utf-8", "replace")
        if not self._line.endswith("\n"):
            return
        line, self._line = " ".join(self._line.split()), ""
        if self._level in (_LEVEL_WARN, _LEVEL_ERROR):
            self._problems.append(line)
            if self._level == _LEVEL_ERROR and not self.lost:
                self._check_lost(line)
        elif device := _DEVICE.search(line):
            self.devices.append(f"{device[1]} ({device[2]})")
        elif offloaded := _OFFLOADED.search(line):
            self.offloaded = int(offloaded[1]), int(offloaded[2])

    def _check_lost(self, line: str) -> None:
        if _LOST.search(line) and not _MEMORY.search(line):
            self.lost = True
            self._tell_lost(line[:300])
            if not self._open:
                log.error("the GPU is lost: %s", line[:300])
