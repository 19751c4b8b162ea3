"""That requests are answered: a model runs, the proxy is well, and a client gets through to it."""

from __future__ import annotations

from collections.abc import Iterator

from installer.doctor.finding import Finding, error, warning
from installer.doctor.host import Host
from llmsvc import client
from llmsvc.errors import Error
from llmsvc.library import store
from llmsvc.systemd import manager

_REFUSED = "every request waits, then gets 503"
_SECONDS = 5.0


def models(host: Host) -> Iterator[Finding]:
    """Whether one runs or comes, and which ones failed."""
    if not host.systemd or not host.models:
        return
    instances = {manager.instance_name(unit): unit for unit in host.units if unit.startswith("llama-server@")}
    failed = {name: unit for name, unit in instances.items() if host.broken(unit)}
    alive = [
        name
        for name, unit in instances.items()
        if name not in failed
        and host.unit(unit, "ActiveState") in ("active", "reloading", "activating", "deactivating")
    ]
    default = store.default_model()
    for name, unit in instances.items():
        start = f"sudo llmsvc start {name}"
        if host.unit(unit, "LoadState") == "masked" and name == default:
            yield error(
                "unit-masked",
                f"{unit}, the default model, is masked",
                "it cannot start, also not at boot",
                f"sudo systemctl unmask {unit} && {start}",
            )
        elif name in failed and alive:
            yield warning(
                "model-failed",
                f"{unit} has failed{host.last_words(unit)}",
                f"{alive[0]} runs instead of it",
                f"{host.mend(unit, start)}; to have it forgotten: sudo systemctl reset-failed {unit}",
            )
        elif name in failed:
            yield error(
                "model-failed", f"{unit} has failed{host.last_words(unit)}", _REFUSED, host.mend(unit, start)
            )
    if not alive and not failed and not host.told_by_proxy.get("unloaded"):
        name = default if default in host.models else host.models[0]
        if host.unit(manager.unit(name), "LoadState") != "masked":
            yield error("no-model", "no model runs", _REFUSED, f"sudo llmsvc start {name}")


def answer(host: Host) -> Iterator[Finding]:
    """Whether a client on this machine gets an answer, with all units running."""
    if not host.systemd:
        return
    needed = [host.socket]
    needed += [manager.PROXY] if host.config.llama_proxy_enabled else map(manager.unit, host.running[:1])
    if len(needed) < 2 or any(host.unit(name, "ActiveState") != "active" for name in needed):
        return  # units.py tells
    listening = host.listening
    if not set(host.config.listen) <= listening:
        return  # network.py tells
    try:
        client.get_json(host.config.base_url, "/health", timeout=_SECONDS)
    except Error as failed:
        yield error(
            "no-answer",
            f"{failed.message}, though {' and '.join(needed)} run",
            "clients wait, or are refused",
            "does a firewall of this machine close the port ('sudo nft list ruleset', 'sudo iptables -S')? "
            f"If not: sudo systemctl restart {needed[-1]}",
        )
