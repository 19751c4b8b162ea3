"""Starts a model for a command: checked while the old one still runs, and with the reason where it fails."""

from __future__ import annotations

import sys
from collections.abc import Callable

from llmsvc.errors import ModelError


def act(verb: Callable[[str], None], name: str) -> None:
    """Calls manager.switch or manager.restart for a model that exists and whose file and settings are sound.

    :raises NotFoundError: no such model
    :raises ModelError: it cannot start; what runs was not touched
    :raises StartError: it did not start all the same; the journal's last lines were printed
    """
    from llmsvc import config
    from llmsvc.library import store
    from llmsvc.systemd import manager, rollback

    config.load()  # a bad value in there would keep this model, and the one to go back to, from starting
    problem = store.model(name).problem
    if problem:
        raise ModelError(problem, hint="the model that runs was not touched")
    try:
        verb(name)
    except manager.StartError as error:
        if len(error.lines) > 1:
            print(*(f"  {line}" for line in error.lines), sep="\n", file=sys.stderr)
        back = next((good for good in rollback.good_models() if good != name), None)
        if back:
            error.hint = f"{back}, the last good model, is on its way back; {error.hint}"
        raise
