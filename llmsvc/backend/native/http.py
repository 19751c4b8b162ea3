"""HTTP to llama.cpp's server on its unix socket."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import aiohttp

from llmsvc.backend.problem import bad, too_long

_URL = "http://llama"
_TEMPLATE = re.compile(r"Jinja Exception: ([^\n]{1,200})")
_TEMPLATES = re.compile(r"jinja|template|While executing", re.I)
_TOO_LARGE = re.compile(r"input \((\d+) tokens\) is too large")
_MOST_BYTES = 1 << 24
"""Of one event or answer that is read as a whole."""


class RefusedError(Exception):
    """llama.cpp's server answered with an error.

    :param status: HTTP status
    :param error: its own description
    """

    def __init__(self, status: int, error: dict[str, Any]) -> None:
        super().__init__(f"llama.cpp answered {status}")
        self.status = status
        self.error = error


class Http:
    """A client of one server. Connections are not kept: to close one is how a request is cancelled."""

    def __init__(self, address: Path) -> None:
        self._address = address

    async def json(self, method: str, path: str, body: object = None) -> Any:
        """The JSON that it answers.

        :raises RefusedError: with an error
        """
        async with self._request(method, path, body) as response:
            answer = json.loads(await response.read())
            if response.status != 200:
                raise _refused(response.status, answer)
            return answer

    async def tokens(self, text: str, *, special: bool, first: bool = True) -> list[int]:
        """The tokens of a text.

        :param special: whether control tokens in it are such, else text
        :param first: whether the model's own first token stands before them
        """
        body = {"content": text, "add_special": first, "parse_special": special}
        return list((await self.json("POST", "/tokenize", body))["tokens"])

    async def events(self, path: str, body: object) -> AsyncGenerator[dict[str, Any], None]:
        """The events of a stream, up to its end; to be closed in the middle to cancel the request.

        :raises RefusedError: an error, before the first event or later
        """
        async with self._request("POST", path, body) as response:
            if response.status != 200:
                raise _refused(response.status, json.loads(await response.read()))
            rest = b""
            async for data in response.content.iter_any():
                *whole, rest = (rest + data).split(b"\n\n")
                for event in whole:
                    if not event.startswith(b"data: "):
                        continue
                    if event == b"data: [DONE]":
                        return
                    parsed = json.loads(event[6:])
                    if "error" in parsed:
                        raise _refused(int(parsed["error"].get("code") or 500), parsed)
                    yield parsed
            raise ConnectionError("the stream has no end")

    @contextlib.asynccontextmanager
    async def _request(
        self, method: str, path: str, body: object
    ) -> AsyncGenerator[aiohttp.ClientResponse, None]:
        connector = aiohttp.UnixConnector(str(self._address), force_close=True)
        data = None if body is None else json.dumps(body, ensure_ascii=False).encode()
        async with (
            aiohttp.ClientSession(
                connector=connector,
                cookie_jar=aiohttp.DummyCookieJar(),
                timeout=aiohttp.ClientTimeout(total=None),
                read_bufsize=_MOST_BYTES,
                trust_env=False,
            ) as session,
            session.request(method, _URL + path, data=data) as response,
        ):
            yield response


def _refused(status: int, answer: object) -> RefusedError:
    error = answer.get("error") if isinstance(answer, dict) else None
    return RefusedError(status, error if isinstance(error, dict) else {})


def explained(refused: RefusedError, n_ctx: int, *, chat: bool) -> Exception:
    """What a refusal means to the client; the server's own words may quote the request.

    :param chat: whether the request was a chat, whose template may have refused it
    """
    kind, said = refused.error.get("type"), str(refused.error.get("message"))
    if kind == "exceed_context_size_error":
        return too_long(int(refused.error["n_prompt_tokens"]), n_ctx, None)
    if large := _TOO_LARGE.search(said):
        return too_long(int(large[1]), n_ctx, None)
    if "grammar" in said:
        return bad("this JSON schema cannot be turned into a grammar", None, "unsupported_schema")
    own = _TEMPLATE.search(said)
    if chat and (own or _TEMPLATES.search(said)):
        words = own[1] if own else "it fails on them"
        return bad(f"the chat template of this model does not take these messages: {words}", "messages")
    return refused if refused.status >= 500 else bad("llama.cpp refuses this request")
