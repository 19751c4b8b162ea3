"""The items that an answer consists of: each as an object, and as the events that build it up."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

from llmsvc.backend.dialects.responses.objects import identity

Event = dict[str, Any]


class Item(Protocol):
    """One item. `place` is its number in the answer."""

    place: int

    def begin(self) -> Iterator[Event]:
        """The events before its first piece."""

    def add(self, text: str, logprobs: list[dict[str, Any]] | None = None) -> Iterator[Event]:
        """The event of a piece."""

    def end(self, status: str) -> Iterator[Event]:
        """The events behind its last piece."""

    def now(self, status: str) -> dict[str, Any]:
        """What it is by now."""


class _Parted:
    """An item with one part of text."""

    place = 0
    _part_kind = ""

    def __init__(self, identifier: str) -> None:
        self._id = identifier
        self._text = ""
        self._scores: list[dict[str, Any]] = []

    def begin(self) -> Iterator[Event]:
        """See Item."""
        begun = self._object("in_progress", [])
        yield {"type": "response.output_item.added", "output_index": self.place, "item": begun}
        yield {"type": "response.content_part.added", **self._at(), "part": self._part()}

    def add(self, text: str, logprobs: list[dict[str, Any]] | None = None) -> Iterator[Event]:
        """See Item."""
        self._text += text
        self._scores += logprobs or []
        yield {
            "type": f"response.{self._part_kind}.delta",
            **self._at(),
            "delta": text,
            **self._with(logprobs),
        }

    def end(self, status: str) -> Iterator[Event]:
        """See Item."""
        whole = {**self._at(), "text": self._text, **self._with(self._scores)}
        yield {"type": f"response.{self._part_kind}.done", **whole}
        yield {"type": "response.content_part.done", **self._at(), "part": self._part()}
        yield {"type": "response.output_item.done", "output_index": self.place, "item": self.now(status)}

    def now(self, status: str) -> dict[str, Any]:
        """See Item."""
        return self._object(status, [self._part()])

    def _at(self) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": self.place, "content_index": 0}

    def _part(self) -> dict[str, Any]:
        return {"type": self._part_kind, "text": self._text}

    def _with(self, logprobs: list[dict[str, Any]] | None) -> dict[str, Any]:
        return {}

    def _object(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        raise NotImplementedError


class Text(_Parted):
    """What the model says."""

    _part_kind = "output_text"

    def __init__(self) -> None:
        super().__init__(identity("msg"))

    def _part(self) -> dict[str, Any]:
        return {**super()._part(), "annotations": [], "logprobs": self._scores}

    def _with(self, logprobs: list[dict[str, Any]] | None) -> dict[str, Any]:
        return {"logprobs": logprobs or []}

    def _object(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "type": "message", "status": status, "role": "assistant", "content": content}


class Thought(_Parted):
    """What the model thinks before it says something."""

    _part_kind = "reasoning_text"

    def __init__(self) -> None:
        super().__init__(identity("rs"))

    def _object(self, status: str, content: list[dict[str, Any]]) -> dict[str, Any]:
        return {"id": self._id, "type": "reasoning", "status": status, "summary": [], "content": content}


class Call:
    """A call of a function.

    :param call: its id, by which the client says its result
    :param namespace: of the function; empty where it has none
    """

    place = 0

    def __init__(self, call: str, name: str, namespace: str = "") -> None:
        self._id = identity("fc")
        self._call = call
        self._name = name
        self._namespace = {"namespace": namespace} if namespace else {}
        self._arguments = ""

    def begin(self) -> Iterator[Event]:
        """See Item."""
        begun = self.now("in_progress")
        yield {"type": "response.output_item.added", "output_index": self.place, "item": begun}

    def add(self, text: str, logprobs: list[dict[str, Any]] | None = None) -> Iterator[Event]:
        """See Item."""
        self._arguments += text
        yield {"type": "response.function_call_arguments.delta", **self._at(), "delta": text}

    def end(self, status: str) -> Iterator[Event]:
        """See Item."""
        whole = {**self._at(), "name": self._name, "arguments": self._arguments}
        yield {"type": "response.function_call_arguments.done", **whole}
        yield {"type": "response.output_item.done", "output_index": self.place, "item": self.now(status)}

    def now(self, status: str) -> dict[str, Any]:
        """See Item."""
        return {
            "id": self._id,
            "type": "function_call",
            "status": status,
            "call_id": self._call,
            "name": self._name,
            **self._namespace,
            "arguments": self._arguments,
        }

    def _at(self) -> dict[str, Any]:
        return {"item_id": self._id, "output_index": self.place}
