"""The model that was stopped because nobody used it: remembered over a restart, for the next request."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path

from llmsvc import atomic, config
from llmsvc.proxy.backends import Backend, named

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True)
class Unloaded:
    """What is told of the model while it is not loaded; the fields are those of Backend.

    :param life: which life of its instance we ended
    """

    name: str
    file: str
    created: int
    context: int | None
    life: str

    @property
    def capabilities(self) -> tuple[str, ...]:
        """Not known while it is not loaded."""
        return ()

    def answers_to(self, model: str | None) -> bool:
        """Whether a request for this model name would be for it."""
        return named(model, self.name, self.file)


class Memory:
    """Keeps it in a file; an absent one says that we stopped nothing."""

    def __init__(self, file: Path) -> None:
        self._file = file
        self.model: Unloaded | None = None
        try:
            data = json.loads(file.read_bytes())
            model = Unloaded(**data)
            if config.valid_model_name(model.name):
                self.model = model
        except (OSError, ValueError, TypeError):
            return

    def remember(self, backend: Backend) -> None:
        """This one is being stopped.

        :raises OSError: that cannot be written down
        """
        model = Unloaded(backend.name, backend.file, backend.created, backend.context, _life(backend))
        # after a power cut the default model comes in any case
        atomic.write(self._file, json.dumps(dataclasses.asdict(model)), 0o600, sync=False)
        self.model = model

    def ready(self, backend: Backend) -> None:
        """This one is ready: whoever started it, nothing is unloaded, unless it is about to stop for us."""
        if self.model is not None and self.model.life != _life(backend):
            self.forget()

    def forget(self) -> None:
        """What is not running now stays so."""
        self.model = None
        try:
            self._file.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("%s cannot be removed: %s", self._file, error.strerror)


def _life(backend: Backend) -> str:
    return repr(backend.identity)
