"""The turns of a conversation, as a chat has them, from APIs that say them in other pieces."""

from __future__ import annotations

from typing import Any

_MERGED = ("content", "reasoning_content")


def add(messages: list[dict[str, Any]], message: dict[str, Any]) -> None:
    """Adds a message to the conversation, as most templates insist on it: turns of one side in a row are one,
    and the system speaks first, or in the user's turn."""
    last = messages[-1] if messages else {}
    if message["role"] == "system" and last.get("role", "system") != "system":
        # agents tell the model of such tags
        told = f"<system-reminder>\n{message['content']}\n</system-reminder>"
        message = {"role": "user", "content": told}
    if message["role"] != last.get("role") or message["role"] == "tool":
        messages.append(message)
        return
    for key in _MERGED:
        if text := message.get(key):
            last[key] = "\n".join(part for part in (last.get(key), text) if part)
    if calls := message.get("tool_calls"):
        last["tool_calls"] = last.get("tool_calls", []) + calls
