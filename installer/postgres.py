"""The part of the plan that concerns a local PostgreSQL: running, with our role and database."""

from __future__ import annotations

import time
from collections.abc import Iterator

from installer.actions import Action, Step
from llmsvc.config import Config
from llmsvc.database import provision
from llmsvc.errors import Error
from llmsvc.process import run
from llmsvc.systemd import manager

_SERVICE = "postgresql.service"
_PATIENCE = 30
"""Seconds that a starting cluster may take until it answers."""


def actions(config: Config) -> Iterator[Action]:
    """Starts PostgreSQL where it does not run, creates role and database where they are missing."""
    yield Step(
        "start PostgreSQL",
        lambda: manager.state(_SERVICE).active != "active" or not _answers(config),
        lambda: _start(config),
    )
    yield Step(
        f"create the PostgreSQL role {config.postgres_auth_user}",
        lambda: not provision.role_exists(config),
        lambda: provision.create_role(config),
    )
    yield Step(
        f"create the PostgreSQL database {config.postgres_auth_db}",
        lambda: not provision.database_exists(config),
        lambda: provision.create_database(config),
    )


def _answers(config: Config) -> bool:
    try:
        provision.role_exists(config)
    except Error:
        return False
    return True


def _start(config: Config) -> None:
    run(["systemctl", "enable", "-q", "--now", _SERVICE])
    # On Debian this unit only groups the clusters' own: that it is active does not prove that one answers.
    deadline = time.monotonic() + _PATIENCE
    while not _answers(config):
        if time.monotonic() > deadline:
            # once more, for its error
            provision.role_exists(config)
        time.sleep(0.2)
