"""Starting the proxy by hand."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from llmsvc import config, env
from llmsvc.errors import UnavailableError
from llmsvc.proxy import main


def settings(**values: object) -> config.Config:
    text = "".join(f"{key}={value}\n" for key, value in values.items())
    return config.parse(env.parse(text, Path("config.env")), Path("config.env"))


def test_port_that_is_taken_is_one_line_with_a_hint() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UnavailableError, match=f"127.0.0.1 port {port}: Address already in use"
        ) as caught:
            main.listen(settings(LLAMA_PROXY_PORT=port))
        assert caught.value.hint


@pytest.mark.parametrize(("host", "family"), [("127.0.0.1", socket.AF_INET), ("::1", socket.AF_INET6)])
def test_listening_socket_is_of_the_configured_address(host: str, family: socket.AddressFamily) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
    try:
        sock = main.listen(settings(LLAMA_PROXY_HOST=host, LLAMA_PROXY_PORT=port))
    except UnavailableError:
        if family == socket.AF_INET6 and not Path("/proc/net/if_inet6").exists():
            pytest.skip("no IPv6 here")
        raise
    with sock:
        assert sock.family == family
        assert sock.getsockname()[:2] == (host, port)
