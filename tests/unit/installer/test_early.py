"""What packaging/install.sh asks before it downloads or compiles: `llmsvc install --early`."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from installer import ports
from installer.early import check
from llmsvc import config, paths
from llmsvc.errors import ConflictError

ROOT = Path(__file__).parents[3]


def early(*options: str) -> subprocess.CompletedProcess[str]:
    code = "import sys; from llmsvc.cli.main import main; sys.exit(main(sys.argv[1:]))"
    return subprocess.run(
        [sys.executable, "-S", "-c", code, "install", "--early", *options],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
    )


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@pytest.mark.parametrize(
    ("options", "status", "message"),
    [
        (["--listen", "127.0.0.1:99999"], 2, "--listen 127.0.0.1:99999: must be"),
        (["--database", "mysql://x"], 2, "--database: must begin with postgresql://"),
        (["--no-proxy", "--listen", "[::1]:1", "--listen", "[::1]:2"], 2, "there is one address"),
        (["--model", "mistrale"], 3, "no model 'mistrale' in the catalogue"),
        (["--model", "/nonexistent/x.gguf"], 3, "no such file"),
        (["--key-file", "/nonexistent/key"], 2, "--key-file /nonexistent/key: there is no such directory"),
        (["--key-file", "/etc"], 2, "--key-file /etc: is a directory"),
        (["--engine", "vllm"], 2, "invalid choice: 'vllm'"),
    ],
)
def test_what_is_asked_in_vain_is_one_line_without_a_package(options, status, message):
    done = early(*options)
    assert done.returncode == status
    assert message in done.stderr.splitlines()[0]


def test_a_broken_model_is_found(tmp_path):
    (tmp_path / "x.gguf").write_bytes(b"GGUF")
    done = early("--model", f"{tmp_path}/x.gguf", "--listen", f"127.0.0.1:{free_port()}")
    assert done.returncode != 0
    assert "x.gguf" in done.stderr.splitlines()[0]


def test_a_port_that_somebody_has_is_found_and_a_free_one_is_fine():
    with socket.create_server(("127.0.0.1", 0)) as server:
        place = f"127.0.0.1:{server.getsockname()[1]}"
        done = early("--listen", place)
        assert done.returncode == 5
        assert done.stderr.startswith(f"llmsvc: cannot listen on 127.0.0.1 port {place.rpartition(':')[2]}")
    done = early("--listen", place)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_a_masked_unit_is_told_before_anything_is_done(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "DROP_INS", tmp_path)
    monkeypatch.setattr(ports, "check", lambda places: None)
    settings = config.parse({}, tmp_path)
    (tmp_path / "llama-server.socket").symlink_to(os.devnull)  # not of this mode
    check(settings, None, None)
    (tmp_path / "llmsvc-prune.timer").symlink_to(os.devnull)
    with pytest.raises(ConflictError, match=r"^llmsvc-prune.timer is masked$"):
        check(settings, None, None)
