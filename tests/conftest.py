"""What all layers share: the option --long, and how many tests of each layer passed."""

from __future__ import annotations

import logging
import signal
from collections import Counter
from pathlib import Path

import pytest

LAYERS = ("unit", "postgres", "engine", "machine")
HERE = Path(__file__).parent


def pytest_configure() -> None:
    # a job in the background of a shell ignores SIGINT, and so would all that the tests start
    signal.signal(signal.SIGINT, signal.default_int_handler)
    # what a test makes of the root logger must not put its client's words into another's output
    for name in ("httpx", "httpcore", "openai"):
        logging.getLogger(name).setLevel(logging.WARNING)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="every repetition where a test takes a sample")
    parser.addoption(
        "--write-docs", action="store_true", help="write docs/conformance.md and docs/settings.md anew"
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if config.getoption("--long"):
        return
    left_out = [item for item in items if item.get_closest_marker("long")]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture(scope="session")
def long(request: pytest.FixtureRequest) -> bool:
    """Whether a test is to do all of its repetitions and not a sample."""
    return bool(request.config.getoption("--long"))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    counts = {layer: Counter[str]() for layer in LAYERS}
    for outcome in ("passed", "failed", "error", "skipped"):
        for report in terminalreporter.getreports(outcome):
            file = config.rootpath / report.nodeid.partition("::")[0]
            layer = file.relative_to(HERE).parts[0] if file.is_relative_to(HERE) else ""
            if layer in counts:
                counts[layer][outcome] += 1
    terminalreporter.section("layers", sep="=")
    for layer, count in counts.items():
        if count:
            others = "".join(
                f", {count[other]} {other}" for other in ("failed", "error", "skipped") if count[other]
            )
            terminalreporter.write_line(f"{layer:9} {count['passed']:5} passed{others}")
    for report in terminalreporter.getreports("passed"):
        for name, value in report.user_properties:
            if name == "measured" and report.when == "call":
                terminalreporter.write_line(f"measured: {value}")
