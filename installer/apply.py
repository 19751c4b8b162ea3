"""Carries a plan out, action by action, and tells what it does."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable

from installer.plan import Plan


@dataclasses.dataclass(frozen=True)
class Done:
    """What an installation did: the titles of the actions that were due."""

    actions: list[str]
    seconds: float


def apply(plan: Plan, report: Callable[[str], None]) -> Done:
    """Applies every action of the plan that is due, in order.

    :param report: called with the title of each action before it is done
    :raises errors.Error: an action failed; those before it stay done, and the next run goes on from there
    """
    begin = time.monotonic()
    plan.check()
    done = []
    for action in plan.actions():
        if not action.due():
            continue
        report(action.title)
        action.apply()
        done.append(action.title)
    return Done(done, time.monotonic() - begin)
