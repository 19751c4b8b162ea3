"""The turns of a conversation, as a chat has them, from APIs that say them in other pieces."""

from __future__ import annotations

from typing import Any

_MERGED = ("content", "reasoning_content")


def add(messages: list[dict[str, Any]], message: dict[str, Any]) -> None:
    """Adds a message. Turns of one side in a row are one, and so are the instructions at the beginning: many
    templates insist on it."""
    last = messages[-1] if messages else {}
    together = ("user", "assistant", "system") if len(messages) == 1 else ("user", "assistant")
    if message["role"] != last.get("role") or message["role"] not in together:
        messages.append(message)
        return
    for key in _MERGED:
        if text := message.get(key):
            last[key] = "\n".join(part for part in (last.get(key), text) if part)
    if calls := message.get("tool_calls"):
        last["tool_calls"] = last.get("tool_calls", []) + calls
