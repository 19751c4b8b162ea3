"""What the process around it needs of an engine, and the choice of one.

An engine is a package beside this module. What is no matter of engines stays out of it: the server and its
life, health, watchdog, the checks of requests and schemas, turns, cancelling, the shape of answers.
"""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from llmsvc.backend.answers import Events
from llmsvc.backend.bodies import Model, Request
from llmsvc.backend.jobs import Job
from llmsvc.backend.loading import Progress
from llmsvc.errors import Error
from llmsvc.library import processor, purpose
from llmsvc.library.gguf import Header
from llmsvc.library.settings import ModelSettings


@dataclasses.dataclass(frozen=True)
class Facts:
    """What /health says of a loaded engine."""

    engine: str
    engine_version: str
    n_ctx: int
    """Tokens that one request has room for, prompt and answer together."""
    n_ctx_train: int
    device: str
    """`cpu`, or the GPUs that it uses."""
    n_gpu_layers: int
    n_layers: int


class Engine(Protocol):
    """One loaded model."""

    model: Model
    """What requests are checked against."""
    facts: Facts
    slots: int
    """How many requests it serves at once."""

    @property
    def tokens_per_second(self) -> float | None:
        """How fast it makes tokens for all that run, or else did last; None before the first."""

    def alive(self, seconds: float) -> bool:
        """Whether what runs moved within the last `seconds`; true when idle."""

    def self_test(self) -> None:
        """Makes one token, or one embedding, the way a request would.

        :raises SettingError, ModelError: the chat format or the template in the GGUF fails
        :raises Error: the model fails
        """

    def plan(self, request: Request) -> object:
        """What takes time and needs no turn; what it returns becomes `Job.task`. In a thread.

        :raises ApiError: 400, what the model cannot serve as it is
        """

    async def count(self, task: Any) -> int:
        """The tokens of the prompt of a chat that was planned.

        :param task: what plan() returned
        :raises ApiError, Exception: the template refuses it, or the like
        """

    async def run(self, request: Request, job: Job, events: Events) -> None:
        """Serves one request, whose turn has come: the events of a stream go to `events`, a whole answer to
        `Job.answer`. It counts tokens in the job, and ends within a second once that is cancelled.

        :raises ApiError, Exception: the request failed
        """

    async def tokenize(self, text: str) -> list[int]:
        """The tokens of a text, control tokens in it included, with the model's own first token.

        :raises ApiError: 400, that takes too long
        """

    async def detokenize(self, tokens: list[int]) -> str:
        """The text of tokens, which must be within the vocabulary."""

    def close(self) -> None:
        """Frees the model's memory, the GPU's too."""


def load(
    settings: ModelSettings,
    header: Header,
    progress: Progress,
    gpu_lost: Callable[[str], None],
    directory: Path,
) -> Engine:
    """Loads the model into the engine that its settings name.

    :param progress: told how far the file is read
    :param gpu_lost: called with the driver's words when a GPU fails, from any thread
    :param directory: the instance's runtime directory
    :raises SettingError, ModelError: no restart can mend it
    :raises Error: a want of memory, or trouble with a GPU
    """
    try:
        processor.check(settings["ENGINE"])
    except Error as error:
        raise settings.error("ENGINE", error.message, error.hint) from None
    purpose.check(settings, header)
    # each imports what the other does not need, and may not have installed
    if settings["ENGINE"] == "native":
        from llmsvc.backend.native import engine as native

        return native.Engine(settings, header, progress, gpu_lost, directory)
    if importlib.util.find_spec("llama_cpp") is None:
        raise settings.error(
            "ENGINE", "llama-cpp-python is not installed", "ENGINE=native, or packaging/install.sh"
        )
    from llmsvc.backend.llama_cpp_python import engine

    return engine.Engine(settings, header, progress, gpu_lost)
