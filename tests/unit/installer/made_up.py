"""Hosts for the checks of `llmsvc doctor` of which a test says what they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from installer.doctor.host import Host
from llmsvc import config, env

WELL = {"LoadState": "loaded", "ActiveState": "active", "UnitFileState": "enabled", "NeedDaemonReload": "no"}


class MadeUp(Host):
    """A host of which a test says what it is."""

    def __init__(self, **facts: Any) -> None:
        self.__dict__.update(
            {"systemd": True, "units": {}, "models": [], "running": [], "manifest": None}
            | {"told_by_proxy": {}, "config": settings(), "last_words": lambda _: ""}
            | facts
        )


def names(found: Any) -> list[str]:
    return [finding.name for finding in found]


def settings(**values: str) -> config.Config:
    return config.parse({key: env.Entry(key, value, 1) for key, value in values.items()}, Path("config.env"))
