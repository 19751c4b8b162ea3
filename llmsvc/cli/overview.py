"""Gathers what `llmsvc status` shows, from systemd, the proxy and what the units' hooks left. Any of them may
be missing, and none of it needs root."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmsvc.errors import Error, UnavailableError

if TYPE_CHECKING:
    from llmsvc.systemd.manager import State

_STALE_SECONDS = 25.0
"""The proxy writes its status every 10 s at least; an older one tells of the past."""
_READY_SECONDS = 3.0
_ORDER = ("active", "deactivating", "activating", "failed")
"""Of several instances the first of these is the one that matters."""
_FROM_PROXY = (
    "running",
    "slots",
    "waiting",
    "expected_seconds",
    "unloaded",
    "held_since",
    "tokens_per_second",
    "database",
    "ledger_backlog",
    "last_switch",
)
_OF_ROLLBACK = ("at", "failed", "reason", "to", "retry_at")


def gather() -> dict[str, Any]:
    """The state of everything, as --json shows it; times are Unix times, None is what cannot be known now.

    :raises SettingError: config.env is wrong, so that nobody knows where the proxy should be
    """
    from llmsvc import config, paths
    from llmsvc.library import store
    from llmsvc.systemd import rollback

    settings = config.load(paths.CONFIG_ENV)
    base_url = settings.base_url
    proxy = _proxy_status(paths.PROXY_STATUS)
    instances, units = _units()
    last = rollback.last()
    return {
        "ready": _ready(base_url),
        **_model(instances, proxy),
        **{key: proxy.get(key) for key in _FROM_PROXY},
        "queue": _queue(base_url),
        "rollback": {key: getattr(last, key) for key in _OF_ROLLBACK} if last else None,
        "default_model": store.default_model(),
        "base_url": settings.told_url,
        "single_key": not settings.llama_proxy_enabled,
        "systemd": instances is not None,
        "proxy_tells": bool(proxy),
        "models": [_unit(state) for state in instances or []],
        "proxy": units.get("proxy"),
        "socket": units.get("socket"),
    }


def _units() -> tuple[list[State] | None, dict[str, dict[str, Any]]]:
    """The instances, and the proxy's units; None and nothing where systemd does not run."""
    from llmsvc.systemd import manager

    try:
        socket, proxy = manager.states([manager.SOCKET, manager.PROXY])
        return manager.instances(), {"socket": _unit(socket), "proxy": _unit(proxy)}
    except UnavailableError:
        return None, {}


def _unit(state: State) -> dict[str, Any]:
    from llmsvc.systemd import manager

    return {
        "unit": state.unit,
        "model": manager.instance_name(state.unit) if state.unit.startswith("llama-server@") else None,
        "active": state.active,
        "sub": state.sub,
        "result": state.result,
        "since": state.since,
        "memory": _memory(state),
        "text": state.text,
    }


def _memory(state: State) -> int | None:
    """What its process holds; not every kernel accounts it, and what it does leaves out shared pages."""
    from llmsvc.library import memory

    return memory.resident(state.pid) if state.pid else None


def _model(instances: list[State] | None, proxy: dict[str, Any]) -> dict[str, Any]:
    """What the models do now: the one that answers or leaves, and the one that comes."""
    from llmsvc.systemd import manager

    shown = dict.fromkeys(("model", "state", "since", "memory", "coming", "progress"))
    if instances is None:  # the proxy sees directories, and knows no more
        shown |= {key: proxy.get(key) for key in ("model", "since", "coming", "progress")}
        return shown
    found = {state.active.replace("reloading", "active"): state for state in instances}
    state = next((found[active] for active in _ORDER if active in found), None)
    if state is None:
        return shown | {"state": "inactive"}
    shown |= {"state": state.active, "since": state.since, "memory": _memory(state)}
    if state.active in ("active", "reloading", "deactivating"):
        shown["model"] = manager.instance_name(state.unit)
    if coming := found.get("activating"):
        shown |= {"coming": manager.instance_name(coming.unit), "progress": _percent(coming.text)}
    elif state.active == "deactivating":
        shown["coming"] = manager.queued_start()
    return shown


def _percent(text: str) -> int | None:
    found = re.search(r"(\d+) ?%", text)
    return int(found[1]) if found else None


def _ready(base_url: str) -> bool:
    """Whether requests are answered now."""
    from llmsvc import client

    try:
        return client.get_json(base_url, "/ready", timeout=_READY_SECONDS)[0] == 200
    except Error:
        return False


def _queue(base_url: str) -> list[dict[str, Any]] | None:
    """The requests that run and wait, as the proxy tells them to whoever has a key; None without one."""
    from llmsvc import client
    from llmsvc.cli.ask import own_key

    try:
        _, told = client.get_json(base_url, "/v1/queue", own_key(), timeout=_READY_SECONDS)
        return list(told["data"]) if isinstance(told, dict) else None
    except (Error, KeyError):
        return None


def _proxy_status(file: Path) -> dict[str, Any]:
    """The proxy's own file; empty where there is none, or only an old one."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
        return told if time.time() - told["at"] < _STALE_SECONDS else {}
    except (OSError, ValueError, KeyError, TypeError):
        return {}
