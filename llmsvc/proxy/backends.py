"""One backend as the proxy sees it: what it says of itself, its slots, and how it is asked and cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

from llmsvc.proxy.backend_client import Connections, LostError, Response

LOST = (LostError, OSError, asyncio.TimeoutError)
"""What an exchange raises when the backend went away."""

_SALT = os.urandom(16)
_PROBE_SECONDS = 2.0
# a healthy one needs 1 s at most
_CANCEL_SECONDS = 3.0
_CANCEL_AGAIN_SECONDS = (0.05, 0.2)
_MOST_LOADING = 1000


class StoppingError(Exception):
    """The backend ended a request because it is being stopped and has waited long enough."""


class BudgetError(Exception):
    """The prompt alone takes more tokens than the request may; `usage` tells how many."""

    def __init__(self, usage: Usage) -> None:
        super().__init__()
        self.usage = usage


@dataclasses.dataclass(frozen=True, slots=True)
class Loading:
    """A model on its way. One differs from the one before exactly if the load has moved.

    :param percent: how much is loaded, where its backend says so
    :param text: what it does, in its own words
    :param moved: changes with each move
    """

    name: str
    percent: int | None = None
    text: str | None = None
    moved: int = 0

    def __str__(self) -> str:
        """A few words for a user."""
        return f"{self.name} is loading" + ("" if self.percent is None else f": {self.percent} %")


@dataclasses.dataclass(frozen=True, slots=True)
class Usage:
    """Exact tokens of one request, as the backend counted them."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None

    @classmethod
    def of(cls, data: object) -> Usage | None:
        """The usage object of an answer, of any dialect; None where there is none."""
        if not isinstance(data, dict):
            return None
        prompt, completion = data.get("prompt_tokens"), data.get("completion_tokens")
        if "input_tokens" in data:
            prompt, completion = data["input_tokens"], data.get("output_tokens")
        if not isinstance(prompt, int):
            return None
        # an embedding has no completion
        return cls(prompt, completion if isinstance(completion, int) else 0)


def named(model: str | None, name: str, file: str) -> bool:
    """Whether a request for `model` means the one of this name and GGUF file."""
    return model is None or model in ("", "current", name, file)


def _anonymous(user: str) -> str:
    return hashlib.blake2b(user.encode(), digest_size=12, key=_SALT).hexdigest()


class Backend:
    """A backend that was ready once. `running` are the slots that are taken, `counting` what takes none."""

    def __init__(self, name: str, identity: object, created: int, connections: Connections) -> None:
        self.name = name
        self.identity = identity
        self.created = created
        self.running = 0
        self.counting = 0
        self.slots = 1
        self.file = ""
        self.context: int | None = None
        self.capabilities: tuple[str, ...] = ()
        self._connections = connections

    @classmethod
    async def probe(cls, name: str, socket: Path, identity: object, created: int) -> Backend:
        """Asks the backend on this socket about itself.

        :param identity: differs between two lives of the same instance
        :param created: when it became ready, Unix time
        :raises LOST: it does not answer
        """
        backend = cls(name, identity, created, Connections(socket))
        try:
            await asyncio.wait_for(backend._ask_health(), _PROBE_SECONDS)
        except BaseException:
            backend.close()
            raise
        return backend

    async def _ask_health(self) -> None:
        response = await self._connections.get("/health")
        answer = await response.read()
        if response.status != 200:
            raise LostError(f"the backend answers /health with {response.status}")
        self._describe(json.loads(answer))

    def _describe(self, health: dict[str, Any]) -> None:
        self.slots = max(1, int(health.get("slots") or 1))
        self.file = str(health.get("model_file") or "")
        self.context = health.get("n_ctx")
        self.capabilities = tuple(map(str, health.get("capabilities") or ()))

    def answers_to(self, model: str | None) -> bool:
        """Whether a request for this model name is for this backend."""
        return named(model, self.name, self.file)

    async def post(
        self, path: str, body: bytes, request_id: str, budget: int | None = None, user: str = ""
    ) -> Response:
        """Sends a request and returns the answer as soon as its headers are there.

        :param budget: tokens that prompt and answer may take together
        :param user: tells the backend whose it is; it gets a name that says nothing
        :raises LOST: the backend went away
        """
        headers = f"x-request-id: {request_id}\r\n"
        if budget is not None:
            headers += f"x-token-budget: {budget}\r\n"
        if user and self.slots > 1:
            headers += f"x-user: {_anonymous(user)}\r\n"
        return await self._connections.post(path, body, headers)

    async def cancel(self, request_id: str) -> Usage | None:
        """Ends a request and waits until the model is free of it; None where the backend cannot tell."""
        try:
            for seconds in (*_CANCEL_AGAIN_SECONDS, None):
                status, answer = await self._command(f"/cancel/{request_id}")
                if status != 404 or seconds is None:
                    break
                # this may have overtaken the request, which has yet to be read
                await asyncio.sleep(seconds)
            return Usage.of(json.loads(answer)) if status == 200 else None
        except (*LOST, ValueError):
            return None

    async def finish(self, request_id: str) -> None:
        """Asks it to end an answer with what it has, as if that had reached its `max_tokens`."""
        with contextlib.suppress(*LOST):
            await self._command(f"/finish/{request_id}")

    async def _command(self, path: str) -> tuple[int, bytes]:
        async def send() -> tuple[int, bytes]:
            response = await self._connections.post(path)
            try:
                return response.status, await response.read()
            finally:
                response.close()

        return await asyncio.wait_for(send(), _CANCEL_SECONDS)

    def close(self) -> None:
        """Closes all connections to it."""
        self._connections.close()


def ready_instances(instances: Path) -> tuple[list[tuple[int, str, int]], Loading | None]:
    """The instances that are ready, the newest last, and the one that is on its way.

    One that is ready is given as the time in ns since when, its name, and the inode of the file that says so.
    """
    ready, coming = [], []
    try:
        names = [entry.name for entry in instances.iterdir()]
    except OSError:
        names = []
    for name in names:
        try:
            stat = (instances / name / "ready").stat()
        except OSError:
            coming.append(_loading(instances / name))
        else:
            ready.append((stat.st_mtime_ns, name, stat.st_ino))
    # of two, one is just ending
    return sorted(ready), max(coming, key=lambda loading: loading.moved, default=None)


def _loading(instance: Path) -> Loading:
    try:
        # the directory is the backend's own: what it puts there may not make us tell other files, nor wait
        descriptor = os.open(instance / "loading", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            moved = os.fstat(descriptor).st_mtime_ns
            line = os.read(descriptor, _MOST_LOADING)
        finally:
            os.close(descriptor)
    except OSError:
        return Loading(instance.name)
    percent, _, text = line.decode("utf-8", "replace").strip().partition(" ")
    if not percent.isdigit():
        return Loading(instance.name, text=percent[:200] or None, moved=moved)
    return Loading(instance.name, min(int(percent), 100), text[:200] or None, moved)
