"""HTTPS with a real client: who trusts the certificate is served; a renewed one counts after a restart."""

from __future__ import annotations

import json
import ssl
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmsvc import client, config
from tests import certificates
from tests.postgres.proxy.clients import CHAT, body
from tests.postgres.proxy.conftest import wait_for


def test_https_from_handshake_to_renewal(make_stack: Callable[..., Any], tmp_path: Path) -> None:
    cert, key = certificates.make(tmp_path)
    stack = make_stack(LLAMA_PROXY_TLS_CERT=cert, LLAMA_PROXY_TLS_KEY=key, LLAMA_PROXY_HEADER_SECONDS=2)
    stack.start_backend()
    stack.start_proxy()
    port = stack.listener.getsockname()[1]
    url = f"https://127.0.0.1:{port}"
    proxy, stack.proxy = stack.proxy, None  # its fixtures speak HTTP
    api_key = stack.add_key()
    stack.proxy = proxy
    headers = {"authorization": f"Bearer {api_key}"}
    trust = ssl.create_default_context(cafile=cert)

    with httpx.Client(base_url=url, headers=headers, verify=trust, trust_env=False, timeout=60) as http:
        wait_for(lambda: http.get("/v1/models").status_code == 200)
        answer = http.post(CHAT, json=body(mock={"tokens": 1000}))
        assert answer.json()["usage"]["completion_tokens"] == 1000
        with http.stream("POST", CHAT, json=body(stream=True)) as stream:
            assert list(stream.iter_lines())[-2] == "data: [DONE]"
        # the last words of a connection come over TLS too
        assert http.get("/health", headers={"x": "y" * 70000}).status_code == 431

    # those who do not trust it, or speak too old a version, or no TLS, get nothing and harm nobody
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{url}/health", trust_env=False, timeout=60)
    old = subprocess.run(
        ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_1", "-cipher", "ALL:@SECLEVEL=0"],
        input="",
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert "Cipher is (NONE)" in old.stdout
    with pytest.raises(httpx.HTTPError):
        httpx.get(f"http://127.0.0.1:{port}/health", trust_env=False, timeout=60)

    # our own commands need no trust: they do not leave the machine
    settings = config.load(stack.config())
    assert settings.base_url.startswith("https://127.0.0.1:")
    assert client.get_json(f"{url}/v1", "/ready")[0] == 200
    assert "word0" in "".join(client.chat(f"{url}/v1", api_key, "hello"))

    renewed, _ = certificates.make(tmp_path)
    assert stack.stop_proxy() == 0
    stack.start_proxy()
    with httpx.Client(verify=ssl.create_default_context(cafile=renewed), trust_env=False, timeout=60) as http:
        assert http.get(f"{url}/health").status_code == 200
    assert "Traceback" not in stack.log
    assert json.dumps(key.read_text())[1:60] not in stack.log
