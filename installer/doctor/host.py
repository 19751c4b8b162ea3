"""What several checks ask of this machine, asked once."""

from __future__ import annotations

import functools
from pathlib import Path

from installer import services
from installer.manifest import Manifest
from llmsvc import config, config_settings, env, paths
from llmsvc.config import Config
from llmsvc.errors import Error, SettingError
from llmsvc.library import store
from llmsvc.process import run
from llmsvc.systemd import manager

_SHOWN = "Id,LoadState,ActiveState,UnitFileState,NeedDaemonReload,ExecStart,DropInPaths,Listen"


class Host:
    """This machine. Every property is found when it is first asked for."""

    @functools.cached_property
    def systemd(self) -> bool:
        """Whether systemd runs here."""
        return Path("/run/systemd/system").is_dir()

    @functools.cached_property
    def config_problem(self) -> SettingError | None:
        """What is wrong with config.env."""
        try:
            config.load(paths.CONFIG_ENV)
        except SettingError as problem:
            return problem
        return None

    @functools.cached_property
    def config(self) -> Config:
        """The settings; for those that are wrong, and where none can be read, the defaults."""
        try:
            entries = env.read(paths.CONFIG_ENV)
        except SettingError:
            entries = {}
        good = {}
        for setting in config_settings.SETTINGS:
            if entry := entries.get(setting.key):
                try:
                    env.resolve([setting], {setting.key: entry}, paths.CONFIG_ENV)
                except SettingError:
                    continue
                good[setting.key] = entry
        return config.parse(good, paths.CONFIG_ENV)

    @functools.cached_property
    def manifest(self) -> Manifest | None:
        """What we wrote here; None where nothing tells, or what tells is damaged."""
        try:
            return Manifest(paths.MANIFEST) if paths.MANIFEST.exists() else None
        except Error:
            return None

    @property
    def boot(self) -> tuple[str, ...]:
        """What runs from the boot on, beside the model."""
        return services.at_boot(proxy=self.config.llama_proxy_enabled)

    @property
    def socket(self) -> str:
        """The unit to which clients connect."""
        return manager.SOCKET if self.config.llama_proxy_enabled else manager.SERVER_SOCKET

    @functools.cached_property
    def models(self) -> list[str]:
        """The names of the installed models."""
        return store.names()

    @functools.cached_property
    def units(self) -> dict[str, dict[str, str]]:
        """What systemd knows of our units and of the instances, by name; empty where it does not run."""
        if not self.systemd:
            return {}
        default = store.default_model()
        names = [
            *self.boot,
            *(manager.unit(name) for name in ([default] if default else [])),
            "llama-server@*.service",
        ]
        shown = run(["systemctl", "show", "-p", _SHOWN, *names], check=False).stdout
        found = {}
        for block in shown.strip().split("\n\n"):
            values: dict[str, str] = {}
            for line in block.splitlines():
                key, _, value = line.partition("=")
                values[key] = f"{values[key]}\n{value}" if key in values else value
            found[values.get("Id", "")] = values
        return found

    def unit(self, name: str, what: str) -> str:
        """One property of a unit; empty where it is not known."""
        return self.units.get(name, {}).get(what, "")

    @functools.cached_property
    def running(self) -> list[str]:
        """The models whose units are active."""
        return [
            manager.instance_name(name)
            for name, values in self.units.items()
            if name.startswith("llama-server@") and values.get("ActiveState") in ("active", "reloading")
        ]
