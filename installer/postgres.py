"""The part of the plan that concerns a local PostgreSQL: running, with our role and database."""

from __future__ import annotations

import time
from collections.abc import Iterator

from installer import services
from installer.actions import Action, Step
from installer.manifest import Manifest
from installer.undo import Undo
from llmsvc.config import Config
from llmsvc.database import provision
from llmsvc.errors import Error
from llmsvc.process import run
from llmsvc.systemd import manager

_PATIENCE = 30
"""Seconds that a starting cluster may take until it answers."""


def actions(config: Config, manifest: Manifest) -> Iterator[Action]:
    """Starts PostgreSQL where it does not run, creates role and database where they are missing."""
    place = provision.Place.of(config)

    def create_role(undo: Undo) -> None:
        if not provision.role_exists(config):
            undo.role(place, config.postgres_auth_user)
            provision.create_role(config)
            manifest.made["role"] = config.postgres_auth_user
            manifest.save()

    def create_database(undo: Undo) -> None:
        if not provision.database_exists(config):
            undo.database(place, config.postgres_auth_db)
            provision.create_database(config)
            manifest.made["database"] = config.postgres_auth_db
            manifest.save()

    start = Step(
        "unit",
        "start PostgreSQL",
        lambda: manager.state(services.POSTGRESQL).active != "active" or not _answers(config),
        lambda undo: _start(config, undo),
    )
    yield start
    role = Step(
        "sql",
        f"create the PostgreSQL role {config.postgres_auth_user}",
        lambda: not provision.role_exists(config),
        create_role,
        needs=[start],
        details=lambda: provision.role_statement(config),
    )
    yield role
    yield Step(
        "sql",
        f"create the PostgreSQL database {config.postgres_auth_db}",
        lambda: not provision.database_exists(config),
        create_database,
        needs=[start],
        details=lambda: provision.database_statement(config),
    )


def taking_stock(config: Config, manifest: Manifest) -> Action:
    """Notes which of role and database are ours, where the manifest was lost that told it."""

    def forgotten() -> dict[str, str]:
        if {"role", "database"} <= manifest.made.keys() or not _answers(config):
            return {}
        return {k: name for k, name in provision.made_here(config).items() if manifest.made.get(k) != name}

    def note(_: Undo) -> None:
        manifest.made |= forgotten()
        manifest.save()

    return Step(
        "file", f"note in {manifest.file} which role and database are ours", lambda: bool(forgotten()), note
    )


def _answers(config: Config) -> bool:
    try:
        provision.role_exists(config)
    except Error:
        return False
    return True


def _start(config: Config, undo: Undo) -> None:
    if not services.units([services.POSTGRESQL])[services.POSTGRESQL].enabled:
        undo.enable([services.POSTGRESQL])
    run(["systemctl", "enable", "-q", "--now", services.POSTGRESQL])
    # On Debian this unit only groups the clusters' own: that it is active does not prove that one answers.
    deadline = time.monotonic() + _PATIENCE
    while not _answers(config):
        if time.monotonic() > deadline:
            # once more, for its error
            provision.role_exists(config)
        time.sleep(0.2)
