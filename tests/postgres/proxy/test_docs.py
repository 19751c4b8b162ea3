"""The recipes of docs/clients.md and docs/reverse-proxy.md, run as they stand there."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.engine.conformance.test_openai_javascript import node, sdk
from tests.postgres.proxy.conftest import wait_for

__all__ = ["sdk"]

DOCS = Path(__file__).parents[3] / "docs"
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BODY = {"model": "current", "messages": [{"role": "user", "content": "hi"}]}


def sections(file: str) -> dict[str, str]:
    """Heading to text of a document's parts."""
    parts = re.split(r"^## (.*)$", (DOCS / file).read_text(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def recipe(file: str, section: str, language: str) -> str:
    """The first block in a language."""
    found = [code for kind, code in _FENCE.findall(sections(file)[section]) if kind == language]
    assert found, f"{file} has no {language} in {section}"
    return str(found[0])


def test_every_client_says_whether_it_was_tested() -> None:
    for section, text in sections("clients.md").items():
        assert re.match(r"\n\n?\*(Tested|Untested)[.*]", text), section


@pytest.fixture
def ours(stack: Any) -> Callable[[str, str], str]:
    """A recipe with the address and a key of this stack."""
    key = stack.add_key()

    def fill(section: str, language: str) -> str:
        code = recipe("clients.md", section, language)
        assert "http://127.0.0.1:8001" in code and "sk-llm-YOUR-KEY" in code
        return code.replace("http://127.0.0.1:8001", stack.url).replace("sk-llm-YOUR-KEY", key)

    return fill


def run(*command: str) -> str:
    environment = {"PATH": os.environ["PATH"], "NO_PROXY": "*", "no_proxy": "*"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("section, answer", [("curl", '"content":'), ("Rerankers", '"relevance_score":')])
def test_curl(ours: Any, section: str, answer: str) -> None:
    assert answer in run("bash", "-c", ours(section, "bash"))


@pytest.mark.parametrize("section", ["Python", "Responses API", "Anthropic's SDK", "LangChain"])
def test_python(ours: Any, section: str) -> None:
    assert run(sys.executable, "-c", ours(section, "python")).startswith("word0 word1")


def test_javascript(ours: Any, sdk: Path) -> None:
    script = sdk / f"recipe-{os.getpid()}.mjs"
    script.write_text(ours("JavaScript", "javascript"))
    try:
        done = node(script.name, folder=sdk, seconds=60)
    finally:
        script.unlink()
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("word0 word1")


CLAUDE_CODE = "2.1.197"


def test_claude_code(running: Any, tmp_path: Path, long: bool) -> None:
    """The real one, which is a quarter of a gigabyte: fetched with --long, and used where it is there."""
    folder = Path(os.environ.get("LLMSVC_CACHE", tmp_path), "tests", f"claude-code-{CLAUDE_CODE}")
    package = folder / "node_modules" / "@anthropic-ai" / "claude-code"
    if not (folder / "COMPLETE").is_file():
        if not long:
            pytest.skip("Claude Code is fetched with --long")
        folder.mkdir(parents=True, exist_ok=True)
        asked = f"@anthropic-ai/claude-code@{CLAUDE_CODE}"
        done = node("npm", "install", "--no-audit", "--no-fund", asked, folder=folder, seconds=300)
        if done.returncode:
            pytest.skip(f"npm cannot fetch it: {done.stderr.strip()[-200:]}")
        node(package / "install.cjs", folder=package, seconds=300)
        (folder / "COMPLETE").touch()
    code = recipe("clients.md", "Claude Code", "bash").removesuffix("claude\n")
    code = code.replace("http://127.0.0.1:8001", running.url).replace(
        "sk-llm-YOUR-KEY", running.add_key("coder")
    )
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "NO_PROXY": "*", "no_proxy": "*"}
    done = subprocess.run(
        ["bash", "-c", f"{code}exec {folder}/node_modules/.bin/claude -p 'Say hello'"],
        cwd=tmp_path,
        env=environment,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.startswith("word0 word1")
    assert {row["status_code"] for row in running.rows("coder", 1)} == {200}


# ---------------------------------------------------------------------------------------------------------
# Reverse proxies


def program(name: str, package: str) -> str:
    """A program of a Debian package, unpacked into the cache of tests/run where it is not installed."""
    if found := shutil.which(name, path="/usr/sbin:/usr/bin"):
        return found
    cache = os.environ.get("LLMSVC_CACHE")
    if not cache or not shutil.which("apt-get"):
        pytest.skip(f"there is no {name}")
    folder = Path(cache, "tests", f"debian-{package}")
    if not folder.is_dir():
        work = folder.with_suffix(f".{os.getpid()}")
        work.mkdir(parents=True)
        # not installed: it would be started on port 80 of whoever runs the tests
        done = subprocess.run(
            ["apt-get", "download", "-q", package], cwd=work, capture_output=True, text=True
        )
        if done.returncode:
            shutil.rmtree(work)
            pytest.skip(f"apt-get cannot fetch {package}: {done.stderr.strip()[-200:]}")
        (deb,) = work.glob("*.deb")
        subprocess.run(["dpkg-deb", "-x", deb, work], check=True)
        deb.unlink()
        with contextlib.suppress(OSError):  # another run was quicker
            work.rename(folder)
    (found,) = (str(file) for place in ("usr/sbin", "usr/bin") for file in folder.glob(f"{place}/{name}"))
    return found


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def nginx(stack: Any, folder: Path, port: int) -> list[str]:
    server = recipe("reverse-proxy.md", "nginx", "nginx")
    for what, with_what in {
        "listen 443 ssl;": f"listen 127.0.0.1:{port} ssl;",
        "/etc/ssl/llm.example.org.pem": f"{folder}/pem",
        "/etc/ssl/llm.example.org.key": f"{folder}/key",
        "http://127.0.0.1:8001": stack.url,
    }.items():
        assert what in server
        server = server.replace(what, with_what)
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"),
            *(
                "-days",
                "2",
                "-subj",
                "/CN=llm.example.org",
                "-out",
                folder / "pem",
                "-keyout",
                folder / "key",
            ),
        ],
        check=True,
        capture_output=True,
    )
    places = "".join(
        f"{what}_temp_path {folder}/{what};\n"
        for what in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (folder / "nginx.conf").write_text(
        f"daemon off; master_process off; pid {folder}/pid; error_log stderr;\n"
        f"events {{}}\nhttp {{ access_log off;\n{places}{server}}}\n"
    )
    return [program("nginx", "nginx"), "-e", "stderr", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def caddy(stack: Any, folder: Path, port: int) -> list[str]:
    text = recipe("reverse-proxy.md", "Caddy", "caddyfile")
    for what, with_what in {
        "llm.example.org {": f"http://127.0.0.1:{port} {{",
        "127.0.0.1:8001": stack.url.removeprefix("http://"),
    }.items():
        assert what in text
        text = text.replace(what, with_what, 1)
    (folder / "Caddyfile").write_text(f"{{\nadmin off\nauto_https off\n}}\n{text}")
    return [program("caddy", "caddy"), "run", "--adapter", "caddyfile", "--config", str(folder / "Caddyfile")]


@pytest.fixture(params=[nginx, caddy], ids=["nginx", "caddy"])
def front(request: pytest.FixtureRequest, stack: Any, tmp_path: Path) -> Iterator[httpx.Client]:
    """A client with a key, on the other side of a reverse proxy with the text of the docs."""
    port = free_port()
    command = request.param(stack, tmp_path, port)
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path)}
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    scheme = "https" if request.param is nginx else "http"
    key = stack.add_key()
    try:
        with httpx.Client(
            base_url=f"{scheme}://127.0.0.1:{port}",
            headers={"authorization": f"Bearer {key}"},
            verify=False,
            trust_env=False,
            timeout=200,
        ) as client:
            wait_for(lambda: answers(client, process, tmp_path / "log"), 30)
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def answers(client: httpx.Client, process: subprocess.Popen[bytes], log: Path) -> bool:
    assert process.poll() is None, log.read_text()
    with contextlib.suppress(httpx.TransportError):
        return client.get("/health").status_code == 200
    return False


def test_the_first_event_comes_at_once_and_who_leaves_frees_the_model(
    front: httpx.Client, stack: Any
) -> None:
    before = stack.mock()["cancelled"]
    endless = BODY | {"stream": True, "mock": {"tokens": 100_000, "delay": 0.05}}
    with front.stream("POST", "/v1/chat/completions", json=endless) as response:
        assert response.status_code == 200
        lines = response.iter_lines()  # kept: its end would be that of the connection
        first = next(lines)
        assert first.startswith("data: ") and "word0" in first
        assert len(stack.mock()["running"]) == 1  # the event has not waited for the end
    wait_for(lambda: not stack.mock()["running"])
    assert stack.mock()["cancelled"] == before + 1


def test_a_long_silent_wait_survives(front: httpx.Client, long: bool) -> None:
    seconds = 90 if long else 2
    begun = time.monotonic()
    done = front.post("/v1/chat/completions", json=BODY | {"mock": {"silent": seconds}})
    assert (done.status_code, done.json()["choices"][0]["message"]["role"]) == (200, "assistant")
    assert time.monotonic() - begun >= seconds
