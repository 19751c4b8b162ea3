"""What `llmsvc install` understands, and what it knows of a host."""

from pathlib import Path

import pytest

from installer.facts import port_taken, systemd_version
from installer.options import parse_listen
from installer.verify import reach
from llmsvc import config, env
from llmsvc.errors import UnavailableError, UsageError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("127.0.0.1:8001", ("127.0.0.1", 8001)),
        ("localhost:80", ("127.0.0.1", 80)),
        ("[::1]:8001", ("::1", 8001)),
        ("0.0.0.0:65535", ("0.0.0.0", 65535)),
    ],
)
def test_listen_takes_address_and_port(text: str, expected: tuple[str, int]) -> None:
    assert parse_listen(text) == expected


@pytest.mark.parametrize(
    "text", ["8001", "127.0.0.1", "example.org:80", "127.0.0.1:0", "127.0.0.1:65536", "::1:80", ""]
)
def test_listen_refuses_the_rest_with_an_example(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_listen(text)
    assert "for example" in (caught.value.hint or "")


def test_systemd_version() -> None:
    assert systemd_version("systemd 252 (252.39-1~deb12u1)\n+PAM") == 252
    with pytest.raises(UnavailableError):
        systemd_version("openrc 1")


def test_a_taken_port_is_noticed() -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert port_taken("127.0.0.1", port)
    assert port_taken("127.0.0.1", port) is None
    assert port_taken("192.0.2.1", port) is None  # FreeBind= listens on an address that comes later


@pytest.mark.parametrize(
    ("host", "words"),
    [
        ("127.0.0.1", "Only this machine"),
        ("::1", "Only this machine"),
        ("0.0.0.0", "Every machine"),
        ("192.0.2.7", "192.0.2.7"),
    ],
)
def test_the_end_says_who_can_reach_the_port(host: str, words: str) -> None:
    text = f"LLAMA_PROXY_HOST={host}\n"
    assert words in reach(config.parse(env.parse(text, Path("x")), Path("x")))
