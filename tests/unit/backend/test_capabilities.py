"""docs/requests.md lists what /v1/models may say that a model can do, and how the rest is refused."""

from __future__ import annotations

import re
from pathlib import Path

from llmsvc.backend.capabilities import CAPABILITIES, lacking

DOCS = Path(__file__).parents[3] / "docs" / "requests.md"


def test_the_docs_have_all_of_them_with_their_codes() -> None:
    rows = re.findall(r"^\| `(\w+)` \|.*\| `(\w+)` \|$", DOCS.read_text(), re.MULTILINE)
    assert rows == [(name, found.code) for name, found in CAPABILITIES.items()]


def test_a_refusal_names_the_model_and_what_would_have_it() -> None:
    error = lacking("smollm2", "infill", "suffix")
    assert error.message == "smollm2 has no tokens for a suffix; models that were made to complete code do"
    assert (error.status, error.param, error.code) == (400, "suffix", "unsupported_parameter")
