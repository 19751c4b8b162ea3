"""The turns of a conversation, as a chat has them, from APIs that say them in other pieces."""

from __future__ import annotations

from typing import Any

_JOINED = ("content", "reasoning_content")


class Turns:
    """A conversation as most templates insist on it: turns of one side in a row are one, and the system
    speaks first, or in the user's turn."""

    def __init__(self) -> None:
        self._messages: list[dict[str, Any]] = []
        # joined at the end: a turn may come in a hundred thousand pieces
        self._texts: list[dict[str, list[str]]] = []

    def add(self, message: dict[str, Any]) -> None:
        """Adds a message, which is a turn or a piece of the last one."""
        role = self._messages[-1]["role"] if self._messages else None
        if message["role"] == "system" and role not in (None, "system"):
            # agents tell the model of such tags
            told = f"<system-reminder>\n{message['content']}\n</system-reminder>"
            message = {"role": "user", "content": told}
        if message["role"] != role or role == "tool":
            # the caller's own is not changed by what follows
            self._messages.append(
                {key: list(value) if key == "tool_calls" else value for key, value in message.items()}
            )
            self._texts.append({key: [] for key in _JOINED if key in message})
        elif calls := message.get("tool_calls"):
            self._messages[-1].setdefault("tool_calls", []).extend(calls)
        for key in _JOINED:
            if text := message.get(key):
                self._texts[-1].setdefault(key, []).append(text)

    def messages(self) -> list[dict[str, Any]]:
        """The chat's messages."""
        joined = ({key: "\n".join(texts) for key, texts in pieces.items()} for pieces in self._texts)
        return [message | texts for message, texts in zip(self._messages, joined, strict=True)]
