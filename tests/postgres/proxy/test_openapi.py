"""The OpenAPI description is right, and no request made after it, or against it, is an error of ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmsvc.proxy import app, openapi
from llmsvc.proxy.dialects import ROUTES

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "missing_required_header",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
"""Not those that ask whether every bad value is refused: most values are the engine's business."""


@pytest.fixture(scope="module")
def open_stack(make_module_stack: Callable[..., Any]) -> Any:
    """A proxy for a user without limits, whose requests wait for nobody."""
    stack = make_module_stack(LLAMA_PROXY_RATE_LIMIT=1000000)
    stack.start_backend("mock", "--slots", "8", "--tokens", "2")
    stack.start_proxy()
    stack.wait_served()
    return stack


def test_all_that_is_served_is_described_and_nothing_else(open_stack: Any) -> None:
    paths = openapi.DESCRIPTION["paths"]
    with open_stack.http(open_stack.add_key(hidden=True)) as client:
        assert client.get("/openapi.json", headers={"authorization": ""}).json() == openapi.DESCRIPTION
        told = client.get("/nothing").json()["error"]["message"]
        for path in paths:
            answer = client.options(path)
            assert answer.status_code == 204
            methods = set(answer.headers["allow"].lower().split(", ")) - {"options", "head"}
            assert methods == set(paths[path])
            name = path.replace("{request_id}", "ID").removesuffix("/{model_id}")
            assert name in told
    assert set(paths) >= set(ROUTES)
    services: Any = open_stack  # routes() only keeps it
    routes = {route.path for route in app.routes(services, services).routes}
    assert routes | set(ROUTES) == set(paths)


def test_schemathesis_finds_nothing(open_stack: Any, long: bool, tmp_path: Path) -> None:
    key = open_stack.add_key("tester", hidden=True)
    program = shutil.which("schemathesis", path=str(Path(sys.executable).parent)) or "schemathesis"
    done = subprocess.run(
        [
            *(program, "run", f"{open_stack.url}/openapi.json", "-H", f"Authorization: Bearer {key}"),
            *("--checks", ",".join(CHECKS), "--mode", "all", "--max-examples", "400" if long else "20"),
            *("--phases", "examples,coverage,fuzzing", "--request-timeout", "20", "--seed", "1"),
            *(
                "--continue-on-failure",
                "--no-color",
                "--generation-database",
                "none",
                "--suppress-health-check",
                "all",
            ),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        timeout=1800,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Traceback" not in open_stack.log
    assert httpx.get(f"{open_stack.url}/health", trust_env=False, verify=False, timeout=60).status_code == 200
