"""The line that a new user pastes."""

from __future__ import annotations

import json
import shlex

from llmsvc.cli import welcome

URL = "http://127.0.0.1:8001/v1"


def test_the_curl_line_is_one_line_and_a_right_request():
    argv = shlex.split(welcome.details(URL, "sk-llm-x")["curl"])
    assert "\n" not in welcome.details(URL, "sk-llm-x")["curl"]
    assert argv[:2] == ["curl", f"{URL}/chat/completions"]
    assert "Authorization: Bearer sk-llm-x" in argv
    body = json.loads(argv[argv.index("-d") + 1])
    assert body["model"] == "current"
    assert body["messages"][0]["role"] == "user"


def test_the_text_has_all_that_a_client_needs():
    text = welcome.welcome(URL, "sk-llm-x")
    for value in welcome.details(URL, "sk-llm-x").values():
        assert value in text
