"""Leaves out the oldest of a conversation, so that the rest of it fits into the context.

Instructions stay, wherever they stand, and so does the last thing that the user said. What goes, goes whole:
a piece of the user's with all up to the next one; then, of what the model did since, a call with its result,
but for the last. So what is left is a conversation still, as templates insist on.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

from llmsvc.backend import messages
from llmsvc.backend.bodies import Request
from llmsvc.backend.dialects.turns import Turns
from llmsvc.backend.problem import ApiError, too_long

_SHARE_OF_ANSWER = 4
"""This part of the context, or as much of it as the answer may take, is kept free for that."""


class Conversation:
    """What was said, and how much of it may be left out.

    :param pieces: messages of a chat, turns of one side still apart
    """

    def __init__(self, pieces: list[dict[str, Any]]) -> None:
        self._pieces = pieces
        self._steps = list(_steps(pieces))

    def __len__(self) -> int:
        """How many steps may be left out."""
        return len(self._steps)

    @property
    def fewest(self) -> int:
        """The steps that must be left out in any case, for there are too many messages."""
        count, left = 0, len(self._pieces)
        while left > messages.MAX_MESSAGES and count < len(self):
            left -= len(self._steps[count])
            count += 1
        return count

    def without(self, count: int) -> list[dict[str, Any]]:
        """The messages of a chat, but for its oldest steps."""
        gone = {place for step in self._steps[:count] for place in step}
        calls = {call["id"] for place in gone for call in self._pieces[place].get("tool_calls", [])}
        turns = Turns()
        for place, piece in enumerate(self._pieces):
            # a result may stand apart from its call
            if place not in gone and (not calls or piece.get("tool_call_id") not in calls):
                turns.add(piece)
        return turns.messages()


def _steps(pieces: list[dict[str, Any]]) -> Iterator[list[int]]:
    """What may be left out, by the places of its pieces; the oldest first."""
    last = max((place for place, piece in enumerate(pieces) if piece["role"] == "user"), default=-1)
    steps: list[list[int]] = []
    before = ""
    for place, piece in enumerate(pieces):
        role = piece["role"]
        if role == "system" or place == last:
            continue
        begins = role == "user" if place < last else role == "assistant" and before != "assistant"
        if begins or not steps or steps[-1][0] < last < place:
            steps.append([])
        steps[-1].append(place)
        before = role
    if steps and steps[-1][0] > last:
        # the answer goes on from there
        steps.pop()
    return iter(steps)


@dataclasses.dataclass(frozen=True)
class _Tried:
    request: Request
    task: object
    tokens: int
    problem: ApiError | None = None


async def fitted(
    request: Request,
    n_ctx: int,
    plan: Callable[[Request], Awaitable[Any]],
    count: Callable[[Any], Awaitable[int]],
) -> tuple[Request, Any]:
    """The request with as little left out as can be, and its task.

    :param n_ctx: tokens of the context
    :param plan: makes the task of a request
    :param count: the tokens of a task's prompt
    :raises ApiError: 400, also with all left out that may be
    """
    said = request.conversation
    assert said is not None
    most = request.body.get("max_tokens") or 0
    share = n_ctx // _SHARE_OF_ANSWER
    room = n_ctx - (min(most, share) if most > 0 else share)

    async def tried(count_out: int) -> _Tried:
        shorter = dataclasses.replace(request, messages=messages.normalise(said.without(count_out)))
        try:
            task = await plan(shorter)
            tokens = await count(task)
        except ApiError as error:
            if error.too_long is None:
                raise
            return _Tried(shorter, None, error.too_long[0], error)
        problem = too_long(tokens, n_ctx, None) if tokens >= n_ctx else None
        return _Tried(shorter, task, tokens, problem)

    low, high = said.fewest, len(said)
    best = await tried(low)
    if best.tokens > room or best.problem:
        if low < high:
            best = await tried(high)
        if best.problem:
            raise best.problem
        # from here on `high` is good, or there is no better, and `low` is not
        while high - low > 1 and best.tokens <= room:
            found = await tried(middle := (low + high) // 2)
            if found.tokens > room or found.problem:
                low = middle
            else:
                high, best = middle, found
    return best.request, best.task
