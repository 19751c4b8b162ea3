"""Carries a plan out, action by action, and tells what it does."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from installer import verify
from installer.actions import Action
from installer.plan import Plan


@dataclasses.dataclass(frozen=True)
class Done:
    """What an installation did: the titles of what was due, and what the model answered at the end."""

    actions: list[str]
    answer: str | None


def apply(plan: Plan, report: Callable[[str], None]) -> Done:
    """Applies every action of the plan that is due, in order; then asks the model, as a client would.

    :param report: called with the title of each action before it is done
    :raises errors.Error: an action failed; those before it stay done, and the next run goes on from there
    """
    plan.check()
    done = []

    def act(action: Action) -> None:
        if action.due():
            report(action.title)
            action.apply()
            done.append(action.title)

    for action in plan.actions():
        act(action)
    first_user = plan.first_user()
    if not done and not first_user.due():
        return Done([], None)
    report("ask the model")
    answer = verify.ask(plan.config)
    act(first_user)
    return Done(done, answer)
