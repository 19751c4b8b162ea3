"""An address that somebody has is refused before systemd takes it away."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from installer import ports, services
from llmsvc.errors import ConflictError


@pytest.fixture(autouse=True)
def ours(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Where our own socket listens."""
    places: set[str] = set()
    monkeypatch.setattr(services, "listening", lambda unit: places)
    return places


def test_a_taken_port_is_noticed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert ports.taken("127.0.0.1", port)
    assert ports.taken("127.0.0.1", port) is None
    assert ports.taken("192.0.2.1", port) is None  # FreeBind= listens on an address that comes later


def test_a_file_where_the_socket_shall_be_stays(tmp_path: Path) -> None:
    file = tmp_path / "precious.txt"
    ports.check([str(file), str(tmp_path / "no" / "such" / "s.sock")])
    file.write_text("precious")
    with pytest.raises(ConflictError, match=r"cannot listen on .*/precious.txt: there is a file"):
        ports.check([str(file)])
    with pytest.raises(ConflictError, match="there is a directory"):
        ports.check([str(tmp_path)])
    link = tmp_path / "link"
    link.symlink_to("gone")
    with pytest.raises(ConflictError, match="there is a file"):
        ports.check([str(link)])


@pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM])
def test_the_socket_of_a_program_that_runs_is_not_taken_over(
    tmp_path: Path, ours: set[str], kind: socket.SocketKind
) -> None:
    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX, kind) as server:
        server.bind(str(path))
        if kind == socket.SOCK_STREAM:
            server.listen()
        with pytest.raises(ConflictError, match="another program listens there"):
            ports.check([str(path)])
        ours.add(str(path))
        ports.check([str(path)])
    ours.clear()
    ports.check([str(path)])  # left by one that ended
