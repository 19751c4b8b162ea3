"""Keeps llama.cpp's log while a model loads: the reason of a failure, the devices and the layers.

Once the model is READY nothing of it is kept or written, for errors of a request quote the request; only that
a GPU is lost is still seen.
"""

from __future__ import annotations

import collections
import logging
import re
from collections.abc import Callable

from llmsvc.errors import Error, ModelError, SettingError
from llmsvc.library.settings import ModelSettings

log = logging.getLogger(__name__)

WARN, ERROR, CONTINUED = 3, 4, 5
"""Levels of a line: enum ggml_log_level, ggml.h."""
_DEVICE = re.compile(r"using device (\w+) \((.*?)\)")
_OFFLOADED = re.compile(r"offloaded (\d+)/(\d+) layers to GPU")
_MEMORY = re.compile(
    r"fail\w* to (m?alloc|mmap)|unable to allocate|out of memory|outof\w*memory|cannot allocate|bad_alloc",
    re.I,
)
_LOST = re.compile(r"\b(cuda|rocm|hip|musa|sycl) error\b|device ?lost", re.I)
_GPU = re.compile(r"\b(cuda|hip|rocm|vulkan|ggml_cuda|ggml_vk|gpu)\w*\b.*(error|fail)", re.I)
_PREFIX = re.compile(r"^(\w+: )*(error loading model: |failed to )?")


class Log:
    """What llama.cpp said since the last start().

    :param lost: called, once, with the words in which a GPU's driver says that it is lost
    """

    def __init__(self, lost: Callable[[str], None]) -> None:
        self.devices: list[str] = []
        self.offloaded: tuple[int, int] | None = None
        """Layers on the GPU, and layers in all, as llama.cpp counts them."""
        self.lost = False
        """Whether a GPU was lost: nothing works any more until the process ends."""
        self._tell_lost = lost
        self._problems: collections.deque[str] = collections.deque(maxlen=50)
        self._errors: collections.deque[str] = collections.deque(maxlen=50)
        """Those of the problems that are more than warnings."""
        self._line = ""
        self._level = 0
        self._open = False

    def start(self) -> None:
        """Begins to keep what is said."""
        self._open = True

    def stop(self) -> None:
        """Forgets the problems and keeps nothing more."""
        self._open = False
        self._problems.clear()
        self._errors.clear()

    def reason(self) -> str | None:
        """The most telling line among the problems, without names of C functions; None if there was none."""
        telling = [line for line in self._problems if "error loading model: " in line]
        lines = telling or list(self._errors) or list(self._problems)
        return _PREFIX.sub("", lines[0])[:300] if lines else None

    def find(self, words: str) -> str | None:
        """The first problem that has these words, and all lines after it; None if there is none."""
        problems = list(self._problems)
        at = next((at for at, line in enumerate(problems) if words in line), None)
        return None if at is None else "\n".join(problems[at:])

    def memory(self) -> str | None:
        """The line that says that memory was short."""
        return next((line[:300] for line in self._problems if _MEMORY.search(line)), None)

    def gpu(self) -> str | None:
        """The line in which a GPU's driver complains."""
        return next((line[:300] for line in self._problems if _GPU.search(line)), None)

    def check_gpu(self, settings: ModelSettings, n_gpu_layers: int) -> None:
        """Whether the GPUs are used as the settings want it.

        :param n_gpu_layers: layers that are on a GPU
        :raises Error: REQUIRE_GPU, and none is
        :raises SettingError: a GPU by a name that its driver does not know
        """
        if settings["REQUIRE_GPU"] and not n_gpu_layers:
            words = self.gpu() or "llama.cpp found none"
            self._tell_lost(words)
            raise Error(f"no layer got onto a GPU: {words}")
        if "-" in settings["GPU"] and any(device.startswith("Vulkan") for device in self.devices):
            raise settings.error("GPU", "Vulkan knows GPUs by their numbers only")

    def load_error(self, settings: ModelSettings, said: str) -> Error:
        """What a failure to load comes down to.

        :param said: what else is known of it
        """
        if memory := self.memory():
            return Error(f"not enough memory: {memory}")
        if gpu := self.gpu():
            self._tell_lost(gpu)
            return Error(f"the GPU fails: {gpu}")
        reason = self.reason() or said
        if "llama_context" in said:
            return SettingError(f"llama.cpp refuses these settings: {reason}", file=settings.file)
        if "LoRA" in said:
            return settings.error("LORA_PATH", "is not an adapter for this model")
        return ModelError(f"llama.cpp cannot load it: {reason}", file=settings.model)

    def receive(self, level: int, text: str) -> None:
        """Takes what llama.cpp says: a line, or a piece of one."""
        if not self._open:
            # the lines of CUDA's end come whole
            if level == ERROR and not self.lost:
                self._check_lost(" ".join(text.split()))
            return
        if level != CONTINUED:
            self._level = level
        self._line += text
        if not self._line.endswith("\n"):
            return
        line, self._line = " ".join(self._line.split()), ""
        if self._level in (WARN, ERROR):
            self._problems.append(line)
            if self._level == ERROR:
                self._errors.append(line)
                if not self.lost:
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
