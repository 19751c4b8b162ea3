"""A small client of our own API, for `llmsvc ask`, `llmsvc status` and the installer's last check."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Iterator

from llmsvc.errors import DeniedError, Error, NotFoundError, UnavailableError


def chat(
    base_url: str, key: str, prompt: str, *, max_tokens: int = 512, timeout: float = 300
) -> Iterator[str]:
    """Sends one user message to the loaded model and yields the answer's text as it comes.

    :param base_url: ends in /v1
    :param timeout: longest silence, seconds
    :raises UnavailableError: nobody answers there, or no model is ready
    :raises DeniedError: the key is not accepted
    """
    body = {
        "model": "current",
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": max_tokens,
        "stream": True,
    }
    response = _request(base_url, "/chat/completions", key, body, timeout)
    try:
        for line in response:
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise Error(f"the answer broke off: {event['error'].get('message')}")
            for choice in event.get("choices", []):
                if text := choice.get("delta", {}).get("content"):
                    yield text
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(f"the answer broke off: {error}") from None
    finally:
        response.close()


def get_json(base_url: str, path: str, key: str | None = None, *, timeout: float = 10) -> tuple[int, object]:
    """GETs `path` below the server's root and returns status and parsed body (None if it is not JSON)."""
    connection = _connect(base_url, timeout)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {key}"} if key else {})
        response = connection.getresponse()
        raw = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(base_url, error) from None
    finally:
        connection.close()
    try:
        return response.status, json.loads(raw)
    except ValueError:
        return response.status, None


def cancel(base_url: str, key: str, request_id: str) -> str:
    """Ends a request that waits or runs; returns whose it was, as `alice` or `webui/anna@example.org`.

    :raises NotFoundError: none of this id waits or runs
    :raises UnavailableError: the proxy does not answer
    :raises DeniedError: the key is not accepted
    """
    response = _request(base_url, f"/requests/{urllib.parse.quote(request_id, safe='')}/cancel", key, {}, 10)
    with response:
        told = json.loads(response.read())
    return str(told["user"]) + (f"/{told['end_user']}" if told["end_user"] else "")


def _connect(base_url: str, timeout: float) -> http.client.HTTPConnection:
    url = urllib.parse.urlsplit(base_url)
    kind = http.client.HTTPSConnection if url.scheme == "https" else http.client.HTTPConnection
    return kind(url.hostname or "127.0.0.1", url.port, timeout=timeout)


def _request(base_url: str, path: str, key: str, body: object, timeout: float) -> http.client.HTTPResponse:
    connection = _connect(base_url, timeout)
    try:
        connection.request(
            "POST",
            urllib.parse.urlsplit(base_url).path.rstrip("/") + path,
            json.dumps(body),
            {"Authorization": f"Bearer {key}", "Content-Type": "application/json", "Connection": "close"},
        )
        response = connection.getresponse()
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(base_url, error) from None
    if response.status == 200:
        return response
    raw = response.read()
    connection.close()
    try:
        message = json.loads(raw)["error"]["message"]
    except (ValueError, KeyError, TypeError):
        message = f"HTTP status {response.status}"
    if response.status == 404:
        raise NotFoundError(message)
    if response.status in (401, 403):
        raise DeniedError(message, hint="set OPENAI_API_KEY to a key that 'llmsvc key list' shows as valid")
    raise UnavailableError(message, hint="'llmsvc status' shows what runs")


def _unreachable(base_url: str, error: Exception) -> UnavailableError:
    return UnavailableError(
        f"nothing answers at {base_url}: {error}", hint="systemctl status auth-proxy.socket auth-proxy"
    )
