"""Single-key mode: what stands between clients and the adapter where there is no proxy.

On the TCP socket that systemd passes it asks for the one key, answers /ready and /v1/models, and takes from
streams what their client did not ask for. The unix socket is the machine's own, and all of it passes.
"""

from __future__ import annotations

import datetime
import hmac
import json
import os
import time
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsvc import paths
from llmsvc.backend.answers import Message, Receive, Scope, Send, send_json
from llmsvc.backend.dialects import routes
from llmsvc.backend.problem import ApiError
from llmsvc.errors import SettingError

if TYPE_CHECKING:
    from llmsvc.backend.adapter import Adapter


def read_key() -> str:
    """The key, from the service's credentials.

    :raises SettingError: there is none
    """
    file = Path(os.environ.get("CREDENTIALS_DIRECTORY", paths.CREDENTIALS), paths.API_KEY.name)
    try:
        key = file.read_text(encoding="ascii").strip()
    except (OSError, UnicodeDecodeError):
        key = ""
    if not key:
        raise SettingError(
            "holds no key",
            file=paths.API_KEY,
            hint="'llmsvc install --no-proxy' makes one where it is missing",
        )
    return key


class SingleKey:
    """The adapter, for whoever has the key.

    :param key: the one key
    """

    def __init__(self, adapter: Adapter, key: str) -> None:
        self._adapter = adapter
        self._key = key.encode()
        self._created = int(time.time())

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        server = scope.get("server")
        if server and server[1] is None:  # a unix socket, whose directory only root and the proxy can enter
            await self._adapter(scope, receive, send)
            return
        request_id = str(uuid.uuid4())
        send = _named_for(scope["path"], send)
        try:
            await self._outside(scope, receive, send, request_id)
        except ApiError as error:
            told = routes.of(scope["path"]).error(error, request_id)
            await send_json(send, error.status, told, request_id)

    async def _outside(self, scope: Scope, receive: Receive, send: Send, request_id: str) -> None:
        path, method = scope["path"], scope["method"]
        if path in ("/ready", "/health") and method in ("GET", "HEAD"):
            await send_json(send, 200, {"status": "ok"}, request_id)
            return
        self._check(scope)
        if path.rstrip("/") == "/v1/models" and method == "GET":
            model = self._model()
            ends = {"has_more": False, "first_id": model["id"], "last_id": model["id"]}
            await send_json(send, 200, {"object": "list", "data": [model], **ends}, request_id)
        elif path.startswith("/v1/models/") and method == "GET":
            if path.removeprefix("/v1/models/") not in (self._model()["id"], "current"):
                raise ApiError(404, "this model is not loaded", param="model", code="model_not_found")
            await send_json(send, 200, self._model(), request_id)
        elif path not in routes.PUBLIC:
            # /cancel and /finish are for a proxy, who names the requests itself
            raise ApiError(404, "there is no such path", code="not_found")
        else:
            stream = _Stream(receive, send)
            await self._adapter(scope, stream.receive, stream.send)

    def _check(self, scope: Scope) -> None:
        headers = dict(reversed(scope["headers"]))
        kind, _, key = headers.get(b"authorization", b"").partition(b" ")
        shown = [key.strip()] if kind.lower() == b"bearer" else []
        if routes.of(scope["path"]).x_api_key or scope["path"].startswith("/v1/models"):
            shown.append(headers.get(b"x-api-key", b"").strip())
        if not any(hmac.compare_digest(key, self._key) for key in shown):
            raise ApiError(401, "this is not the API key of this server", code="invalid_api_key")

    def _model(self) -> dict[str, Any]:
        health = self._adapter.health()
        return {
            "id": health["model"],
            "object": "model",
            "created": self._created,
            "owned_by": "llmsvc",
            "context_length": health["n_ctx"],
            "max_model_len": health["n_ctx"],
            # Anthropic's clients read these
            "type": "model",
            "display_name": health["model"],
            "created_at": datetime.datetime.fromtimestamp(self._created, datetime.timezone.utc).isoformat(),
            "capabilities": health["capabilities"],
        }


def _named_for(path: str, send: Send) -> Send:
    """Sends the request's id by the name that the clients of a path look for, too."""
    if not routes.of(path).x_api_key:
        return send

    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = message["headers"]
            known = [(b"request-id", value) for name, value in headers if name == b"x-request-id"]
            message = {**message, "headers": [*headers, *known]}
        await send(message)

    return sending


class _Stream:
    """One exchange, without the usage chunk that the adapter always sends and only some clients ask for."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._body: list[bytes] = []
        self._filter = False

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.request":
            self._body.append(message.get("body", b""))
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            kind = next((value for name, value in message["headers"] if name == b"content-type"), b"")
            self._filter = kind.startswith(b"text/event-stream") and not _asks_for_usage(b"".join(self._body))
            self._body.clear()
        elif self._filter and b'"total_tokens"' in message.get("body", b"") and _is_usage(message["body"]):
            return
        await self._send(message)


def _asks_for_usage(body: bytes) -> bool:
    try:
        options = json.loads(body).get("stream_options")
    except (ValueError, AttributeError):
        return False
    return isinstance(options, Mapping) and options.get("include_usage") is True


def _is_usage(event: bytes) -> bool:
    """Whether an event tells the usage and nothing else."""
    try:
        chunk = json.loads(event.removeprefix(b"data: "))
    except ValueError:
        return False
    return isinstance(chunk, dict) and bool(chunk.get("usage")) and not chunk.get("choices")
