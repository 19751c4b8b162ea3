"""Which models are installed, as a request may name them."""

from __future__ import annotations

import time
from pathlib import Path

from llmsvc import config, env
from llmsvc.errors import SettingError

_FILES_SECONDS = 5.0


class Installed:
    """The models of `models_d`, looked at anew for each question: an admin adds them while we run."""

    def __init__(self, models_d: Path) -> None:
        self._models_d = models_d
        self._files: dict[str, str] = {}
        self._files_until = 0.0

    def names(self) -> list[str]:
        """All of them, sorted."""
        names = (file.name.removesuffix(".env") for file in self._models_d.glob("*.env"))
        return sorted(name for name in names if config.valid_model_name(name))

    def since(self, name: str) -> int:
        """When the settings of model `name` were last changed, Unix time; 0 where there is none."""
        try:
            return int((self._models_d / f"{name}.env").stat().st_mtime)
        except OSError:
            return 0

    def find(self, model: str) -> str | None:
        """The name of the model that a request names by it or by its GGUF file; None where there is none."""
        if config.valid_model_name(model) and (self._models_d / f"{model}.env").is_file():
            return model
        return self._by_file().get(model) if model.endswith(".gguf") else None

    def _by_file(self) -> dict[str, str]:
        now = time.monotonic()
        if now >= self._files_until:
            self._files_until = now + _FILES_SECONDS
            self._files = {}
            for name in self.names():
                try:
                    entry = env.read(self._models_d / f"{name}.env").get("MODEL")
                except SettingError:
                    continue
                if entry is not None:
                    self._files.setdefault(Path(entry.value).name, name)
        return self._files
