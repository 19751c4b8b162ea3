"""docs/conformance.md says what the clients saw. Runs after their tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.conformance.table import Table, read

FILE = Path(__file__).parents[3] / "docs" / "conformance.md"


def test_the_table_in_the_docs_is_what_the_clients_saw(table: Table, request: pytest.FixtureRequest) -> None:
    if not table.cells:
        pytest.skip("no client ran")
    if request.config.getoption("--write-docs"):
        FILE.write_text(table.text())
    written = read(FILE.read_text())
    # a client that could not be tried today, or not with both engines, keeps its column
    tried = {cell[:2] for cell in table.cells}
    left = {cell: outcome for cell, outcome in written.items() if cell[:2] not in tried}
    table.cells |= left
    assert FILE.read_text() == table.text(), "the command at the top of docs/conformance.md makes it anew"
