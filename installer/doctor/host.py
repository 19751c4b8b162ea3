"""What several checks ask of this machine, asked once."""

from __future__ import annotations

import functools
import json
import shlex
from pathlib import Path
from typing import Any

from installer import package, services
from installer.doctor.finding import RELOAD
from installer.manifest import Manifest
from llmsvc import config, config_settings, env, paths
from llmsvc.config import Config
from llmsvc.errors import Error, SettingError
from llmsvc.library import store
from llmsvc.process import run
from llmsvc.systemd import manager

_SHOWN = (
    "Id,LoadState,LoadError,ActiveState,SubState,UnitFileState,NeedDaemonReload,FragmentPath,DropInPaths,"
    "ExecStart,User,Listen"
)
_LAST_LINES = "20"
_WARNING, _INFO = 4, 6


class Host:
    """This machine. Every property is found when it is first asked for."""

    @functools.cached_property
    def systemd(self) -> bool:
        """Whether systemd runs here."""
        return Path("/run/systemd/system").is_dir()

    @functools.cached_property
    def config_problems(self) -> list[SettingError]:
        """All that is wrong with config.env."""
        try:
            entries = env.read(paths.CONFIG_ENV)
        except SettingError as problem:
            return [problem]
        found = []
        for setting in config_settings.SETTINGS:
            if entry := entries.get(setting.key):
                try:
                    env.resolve([setting], {setting.key: entry}, paths.CONFIG_ENV)
                except SettingError as problem:
                    found.append(problem)
        if not found:
            # keys that are none of ours, and values that do not go together
            try:
                config.load(paths.CONFIG_ENV)
            except SettingError as problem:
                found.append(problem)
        return found

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
    def repair(self) -> str:
        """The fix of what keeps `llmsvc install` itself from working."""
        if paths.PACKAGED:
            return "install llmsvc's package again: sudo apt install --reinstall ./llmsvc_*.deb"
        script = "packaging/install.sh"
        source = Path(self.manifest.source) if self.manifest and self.manifest.source else None
        if source and (source / script).exists():
            return f"sudo {shlex.quote(str(source / script))}"
        return f"in a checkout of llmsvc: sudo {script}"

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
    def told_by_proxy(self) -> dict[str, Any]:
        """What the proxy tells of itself; nothing where it does not."""
        try:
            told = json.loads(paths.PROXY_STATUS.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return {}
        return told if isinstance(told, dict) else {}

    @property
    def listening(self) -> set[str]:
        """Where the socket listens, as systemd knows it."""
        return {line.split(" ")[0] for line in self.unit(self.socket, "Listen").splitlines()}

    def broken(self, name: str) -> bool:
        """Whether a unit has failed, or ends again and again as soon as it starts."""
        return self.unit(name, "ActiveState") == "failed" or self.unit(name, "SubState") == "auto-restart"

    def mend(self, name: str, start: str) -> str:
        """What mends a unit that does not work as it is, in words.

        :param start: the command that starts it then
        """
        if mine := self.drop_in(name):
            return f"correct or remove your {mine}, then {RELOAD} && {start}"
        return f"mend what this names ('journalctl -u {name} -n 30' tells more), then {start}"

    def drop_in(self, name: str) -> str | None:
        """The admin's own drop-in of a unit, the one that counts last."""
        own = [
            path
            for path in self.unit(name, "DropInPaths").split()
            if path.startswith(("/etc/", "/run/systemd/system")) and Path(path).name != package.DROP_IN
        ]
        return own[-1] if own else None

    def last_words(self, name: str) -> str:
        """Why a unit ended, as its journal says: `: ` and a line, or nothing."""
        shown = run(
            ["journalctl", "-q", "--no-pager", "-o", "json", "-n", _LAST_LINES, "-u", name], check=False
        ).stdout
        entries = [json.loads(line) for line in shown.splitlines() if line.startswith("{")]
        said = [
            (entry["MESSAGE"], int(entry.get("PRIORITY", _INFO)), entry.get("_PID") == "1")
            for entry in entries
            if isinstance(entry.get("MESSAGE"), str)
        ]
        begun = [n for n, (line, _, systemd) in enumerate(said) if systemd and line.startswith("Starting ")]
        said = said[begun[-1] if begun else 0 :]
        # its own last words; what it, or systemd, found grave; where it only died, how
        own = [line.removeprefix("llmsvc: ") for line, _, _ in said if line.startswith("llmsvc: ")]
        grave = [
            line
            for line, level, _ in said
            if level <= _WARNING and not line.startswith("Failed ") and "Failed with result" not in line
        ]
        died = [line for line, _, systemd in said if systemd and "process exited" in line]
        return "".join(f": {lines[-1]}" for lines in (own or grave or died,) if lines)

    @functools.cached_property
    def running(self) -> list[str]:
        """The models whose units are active."""
        return [
            manager.instance_name(name)
            for name, values in self.units.items()
            if name.startswith("llama-server@") and values.get("ActiveState") in ("active", "reloading")
        ]
