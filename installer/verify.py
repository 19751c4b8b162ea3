"""The last step: asks the model as a client would, and tells who can reach the port."""

from __future__ import annotations

import http.client
import ipaddress
import json
import socket
import time

from llmsvc import client, paths
from llmsvc.config import Config
from llmsvc.errors import DeniedError, UnavailableError

QUESTION = "Say hello in one short sentence."
_PATIENCE = 60
"""Seconds in which the proxy must have seen the model that systemd reports as ready."""
_NEW_KEY = 35
"""Seconds in which the proxy must have heard of a key that was made just now: as a rule at once, but
without a connection to PostgreSQL it tries every 30 s."""


def ask(config: Config) -> str:
    """The loaded model's answer to QUESTION, through the proxy with this machine's own key.

    :raises UnavailableError: no answer
    :raises DeniedError: the key is not accepted
    """
    file = paths.LOCAL_KEY if config.llama_proxy_enabled else paths.API_KEY
    key = file.read_text(encoding="ascii").strip()
    begun = time.monotonic()
    while True:
        try:
            answer = "".join(client.chat(config.base_url, key, QUESTION, max_tokens=48)).strip()
        except (UnavailableError, DeniedError) as refused:
            patience = _PATIENCE if isinstance(refused, UnavailableError) else _NEW_KEY
            if time.monotonic() > begun + patience:
                raise
            time.sleep(0.5)
            continue
        return answer


def device(name: str) -> str:
    """Where the model runs, as its backend, inside its sandbox, says: `CPU`, `CUDA0, 33 of 33 layers`.

    :raises UnavailableError: it does not answer
    """
    connection = http.client.HTTPConnection("backend", timeout=10)
    try:
        connection.sock = socket.socket(socket.AF_UNIX)
        connection.sock.settimeout(10)
        connection.sock.connect(str(paths.instance_socket(name)))
        connection.request("GET", "/health")
        health = json.loads(connection.getresponse().read())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise UnavailableError(f"the backend of {name} does not answer: {error}") from None
    finally:
        connection.close()
    layers = health["n_gpu_layers"]
    return f"{health['device']}, {layers} of {health['n_layers']} layers" if layers else str(health["device"])


def reach(config: Config) -> str:
    """Who can reach the port, and the one command that changes it; for people."""
    host, port = config.address
    bound = ipaddress.ip_address(host)
    tls = config.llama_proxy_tls_cert is not None
    if bound.is_loopback:
        told = (
            f"Only this machine can reach port {port}. For your network: "
            f"sudo llmsvc install --listen 0.0.0.0:{port}"
        )
        hint = (
            "(there is no TLS: on a network that you do not trust, put nginx or Caddy in front of it instead)"
        )
        return told if tls else f"{told}\n{hint}"
    whom = "Every machine that can reach this one" if bound.is_unspecified else f"Whoever can reach {host}"
    open_to = f"{whom} can connect to port {port}; a key is required."
    readable = "" if tls else " There is no TLS: keys and prompts cross\nthe network readable."
    return f"{open_to}{readable} To close it again: sudo llmsvc install --listen 127.0.0.1:{port}"
