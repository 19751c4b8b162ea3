"""The access log: one structured journald entry a request, without prompts and keys."""

from __future__ import annotations

from llmsvc.systemd.journal import Journal

FIELDS = {
    "username": "LLM_USER",
    "end_user": "LLM_END_USER",
    "model": "LLM_MODEL",
    "status_code": "LLM_STATUS",
    "state": "LLM_STATE",
    "request_id": "LLM_REQUEST_ID",
    "client_request_id": "LLM_CLIENT_REQUEST_ID",
    "client_addr": "LLM_CLIENT",
    "key_id": "LLM_KEY_ID",
    "path": "LLM_PATH",
    "prompt_tokens": "LLM_PROMPT_TOKENS",
    "completion_tokens": "LLM_COMPLETION_TOKENS",
    "duration_ms": "LLM_DURATION_MS",
    "queue_ms": "LLM_QUEUE_MS",
}
"""Columns of llama_requests, and the id that a client gave its request, and their names in the journal."""

Row = dict[str, object]


def write(journal: Journal, row: Row) -> None:
    """Writes the entry of a request that ended.

    :param row: columns of llama_requests; a missing user is one that showed no valid key
    """
    status = row["status_code"]
    user = row.get("username") or "-"
    if row.get("end_user"):
        user = f"{user}/{row['end_user']}"
    message = f"{user} {row['path']} {status} {row['duration_ms']} ms"
    if row.get("model"):
        message += f", {row['model']}"
    if row.get("prompt_tokens") is not None:
        message += f", {row['prompt_tokens']} + {row['completion_tokens']} tokens"
    if row["state"] != "ok":
        message += f" ({row['state']})"
    priority = 4 if isinstance(status, int) and status >= 500 else 6
    journal.send(message, priority, {name: row.get(column) for column, name in FIELDS.items()})
