"""States of units as systemd would tell them."""

from __future__ import annotations

import time

from llmsvc.systemd.manager import State


def state(
    name: str, active: str = "active", *, text: str = "", pid: int = 0, result: str = "success"
) -> State:
    """The state of an instance, or with a dot in its name of a unit."""
    return State(
        unit=name if "." in name else f"llama-server@{name}.service",
        load="loaded",
        active=active,
        sub="",
        result=result,
        text=text,
        since=time.time() - 60,
        exit_status=0,
        pid=pid,
    )
