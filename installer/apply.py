"""Carries a plan out, action by action, and tells what it does; what fails half-way is put back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

from installer import stage, undo, verify
from installer.actions import Action
from installer.plan import Plan


@dataclasses.dataclass(frozen=True)
class Done:
    """What an installation did: the titles of what was due, and what the model answered at the end."""

    actions: list[str]
    answer: str | None


def apply(plan: Plan, report: Callable[[str], None]) -> Done:
    """Applies what is due, in order, and asks the model, as a client would.

    :param report: called with the title of each action before it is done
    :raises errors.Error: an action failed, or the model did not answer; all is as it was before
    """
    plan.check()
    due: Sequence[Action] = plan.pending()
    if not due:
        return _first_user(plan, report, [], None)
    if any(file in due and file.path.name in plan.units for file in plan.files):
        stage.verify(plan.units, systemd=plan.facts.systemd)
    with undo.transaction(report) as journal:
        journal.file(plan.manifest.file)
        for action in due:
            report(action.title)
            action.apply(journal)
        report("ask the model")
        answer = verify.ask(plan.config)
    return _first_user(plan, report, [action.title for action in due], answer)


def _first_user(plan: Plan, report: Callable[[str], None], done: list[str], answer: str | None) -> Done:
    """Last and for itself: the key is shown once, and no later failure may lose it."""
    action = plan.first_user()
    if action is None or not action.due():
        return Done(done, answer)
    if answer is None:
        report("ask the model")
        answer = verify.ask(plan.config)
    report(action.title)
    action.apply(undo.Undo())
    return Done([*done, action.title], answer)
