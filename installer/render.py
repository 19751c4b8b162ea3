"""Renders the unit templates for one host."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import jinja2

from installer import services
from installer.facts import Facts
from llmsvc import config, config_settings, paths
from llmsvc.config import Config
from llmsvc.systemd import manager

DEFAULTS = config.parse({}, paths.CONFIG_ENV)
FIXED = (manager.SOCKET, manager.SLICE, *services.WATCH, services.PRUNE)
"""Units that are the same on every host."""
_WITH_PROXY = (manager.SOCKET, manager.PROXY, services.PRUNE, services.PRUNE.replace(".timer", ".service"))
"""What single-key mode does without."""


def environment() -> jinja2.Environment:
    """Jinja that reads our templates and treats an unknown variable as an error."""
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(paths.data("templates")),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        autoescape=False,  # noqa: S701 - unit files, no HTML
    )


def units(facts: Facts, settings: Config = DEFAULTS) -> dict[str, str]:
    """The text of every rendered unit, by its file name, for a host's systemd, GPU and settings."""
    jinja = environment()
    variables = {
        "systemd": facts.systemd,
        "gpu": facts.gpu,
        "single_key": not settings.llama_proxy_enabled,
        "local_database": settings.local_database,
        # of a name nobody knows the addresses that it will have
        "database_address": _address(settings.postgres_auth_host),
        "venv": paths.VENV,
        # not the release behind the link: a unit must survive an upgrade
        "data": paths.VENV / "share/llmsvc",
        "credentials": paths.CREDENTIALS,
        "proxy_user": paths.PROXY_USER,
        "backend_user": paths.BACKEND_USER,
    }
    names = [
        name.removesuffix(".j2") for name in jinja.list_templates(["j2"]) if "." in name.removesuffix(".j2")
    ]
    return {
        name: jinja.get_template(f"{name}.j2").render(variables, unit=name)
        for name in names
        if name.endswith((".service", ".socket"))
    }


def config_env(values: dict[str, str]) -> str:
    """A new config.env: every setting documented, `values` set, the others shown as comments."""
    return (
        environment().get_template("config.env.j2").render(settings=config_settings.SETTINGS, values=values)
    )


def ours(name: str) -> str:
    """The text of one of the files that are installed as they are."""
    return paths.data("units", name).read_text(encoding="utf-8")


def files(facts: Facts, settings: Config = DEFAULTS) -> dict[Path, tuple[str, int]]:
    """Text and mode of every unit, and of what belongs to the units, by its path."""
    found = {
        paths.SYSUSERS / "llmsvc.conf": (ours("llmsvc.sysusers"), 0o644),
        paths.TMPFILES / "llmsvc.conf": (ours("llmsvc.tmpfiles"), 0o644),
        paths.GENERATORS / "llmsvc-generator": (ours("llmsvc-generator"), 0o755),
        paths.POLKIT_RULES / "50-llmsvc.rules": (ours("50-llmsvc.rules"), 0o644),
    }
    texts = {name: ours(name) for name in FIXED} | units(facts, settings)
    if not settings.llama_proxy_enabled:
        texts = {name: text for name, text in texts.items() if name not in _WITH_PROXY}
        texts[manager.SERVER_SOCKET] = ours(manager.SERVER_SOCKET)
    for name, text in sorted(texts.items()):
        found[paths.UNITS / name] = (text, 0o644)
    return found


def packaged(facts: Facts) -> dict[Path, tuple[str, int]]:
    """The same for a package, which is for any host: what either mode needs, and starts nothing by itself."""
    return {**files(facts), paths.UNITS / manager.SERVER_SOCKET: (ours(manager.SERVER_SOCKET), 0o644)}


def _address(host: str) -> str | None:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None
