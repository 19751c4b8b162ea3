"""The entry of a request in the journal, read from journald's end of the socket."""

from __future__ import annotations

import socket
from pathlib import Path

from llmsvc.proxy import access
from llmsvc.systemd.journal import Journal


def entry(tmp_path: Path, row: access.Row) -> dict[str, str]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(str(tmp_path / "socket"))
        journald.settimeout(5)
        journal = Journal("auth-proxy", str(tmp_path / "socket"))
        access.write(journal, row)
        assert journal._socket
        journal._socket.close()
        return dict(line.split("=", 1) for line in journald.recv(65536).decode().splitlines())


ROW: access.Row = {
    "request_id": "0192",
    "username": "alice",
    "user_id": 1,
    "key_id": 7,
    "client_addr": "10.0.0.9",
    "path": "/v1/chat/completions",
    "model": "smollm2",
    "state": "ok",
    "status_code": 200,
    "duration_ms": 812,
    "queue_ms": 3,
    "prompt_tokens": 12,
    "completion_tokens": 0,
}


def test_entry_has_a_field_for_everything_one_may_look_for(tmp_path: Path) -> None:
    assert entry(tmp_path, ROW) == {
        "MESSAGE": "alice /v1/chat/completions 200 812 ms, smollm2, 12 + 0 tokens",
        "PRIORITY": "6",
        "SYSLOG_IDENTIFIER": "auth-proxy",
        "LLM_USER": "alice",
        "LLM_MODEL": "smollm2",
        "LLM_STATUS": "200",
        "LLM_STATE": "ok",
        "LLM_REQUEST_ID": "0192",
        "LLM_CLIENT": "10.0.0.9",
        "LLM_KEY_ID": "7",
        "LLM_PATH": "/v1/chat/completions",
        "LLM_PROMPT_TOKENS": "12",
        "LLM_COMPLETION_TOKENS": "0",
        "LLM_DURATION_MS": "812",
        "LLM_QUEUE_MS": "3",
    }


def test_failure_of_ours_is_a_warning_and_a_refused_key_has_no_user(tmp_path: Path) -> None:
    failed = entry(tmp_path, ROW | {"status_code": 502, "state": "error"})
    assert failed["PRIORITY"] == "4"
    assert failed["MESSAGE"].endswith("(error)")
    (tmp_path / "socket").unlink()
    refused = {
        "request_id": "1",
        "path": "/v1/models",
        "state": "rejected_key",
        "status_code": 401,
        "duration_ms": 0,
    }
    found = entry(tmp_path, refused)
    assert "LLM_USER" not in found
    assert found["LLM_STATUS"] == "401"
