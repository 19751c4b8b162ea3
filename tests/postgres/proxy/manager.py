"""Starts and stops mock backends where the proxy would start and stop models through systemd."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from pathlib import Path

from llmsvc.systemd.manager import StartError

MOCK = Path(__file__).parents[2] / "mock_backend.py"


def processes(instances: Path, model: str) -> list[int]:
    """The mock backends of this directory that run as `model`."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().decode().split("\0")
        except OSError:
            continue
        if words[1:4] == [str(MOCK), str(instances), model]:
            found.append(int(process.name))
    return found


class Mocks:
    """A Manager; a model whose name begins with `broken` does not start.

    :param instances: the directory that holds one directory a backend
    """

    def __init__(self, instances: Path) -> None:
        self._instances = instances

    async def start(self, model: str, running: str | None) -> None:
        """Ends the one that runs, starts the other one, and goes back if that fails."""
        if running is not None:
            await self.stop(running)
        if model.startswith("broken"):
            if running is not None:
                await self._run(running)
            raise StartError(model, f"{self._instances}/{model}.gguf: is truncated", [])
        await self._run(model)

    async def stop(self, model: str) -> None:
        """Ends it and removes its directory, as systemd does."""
        for pid in processes(self._instances, model):
            os.kill(pid, signal.SIGTERM)
        while processes(self._instances, model):
            await asyncio.sleep(0.01)
        shutil.rmtree(self._instances / model)

    async def _run(self, model: str) -> None:
        await asyncio.create_subprocess_exec(sys.executable, str(MOCK), str(self._instances), model)
        while not (self._instances / model / "ready").exists():
            await asyncio.sleep(0.01)
