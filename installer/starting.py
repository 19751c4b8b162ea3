"""The part of the plan that makes what was written run: what changed is restarted, and no request is lost."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

from installer import package, retire, services
from installer.actions import Action, Link, Step, WriteFile, diff
from installer.manifest import Manifest
from installer.undo import Undo
from llmsvc import paths
from llmsvc.config import Config
from llmsvc.errors import Error
from llmsvc.library import store
from llmsvc.process import run
from llmsvc.systemd import manager

BY_SERVICES = (
    *(paths.PROXY_STATE, paths.GOOD_MODELS, paths.USED_MODELS),
    *(paths.RUN, paths.PROXY_STATUS.parent, paths.PRUNE_STAMP),
)
"""What the services themselves, and systemd for them, make."""


@dataclasses.dataclass
class Starting:
    """What is to run.

    :ivar config: the settings as they will be
    :ivar config_text: the same as the text of config.env
    :ivar release: the environment that the services will run from
    :ivar files: every file of ours
    :ivar units: of these the units: name to text
    :ivar model: the model that will be the default; None where that stays as it is
    :ivar new_password: the database's password changes
    :ivar source: the checkout that the release came from, if known
    """

    config: Config
    config_text: str
    release: str
    manifest: Manifest
    files: Sequence[WriteFile]
    units: dict[str, str]
    model: str | None
    new_password: bool
    source: str

    def __post_init__(self) -> None:
        self.proxy = self.config.llama_proxy_enabled
        self.socket = manager.SOCKET if self.proxy else manager.SERVER_SOCKET
        self.at_boot = services.at_boot(proxy=self.proxy)
        # asked now, for the answers change as files are written
        self._listened = services.listening(self.socket)
        self.new_socket = self._moved() or self._changes(self.socket)

    def actions(self) -> Iterator[Action]:
        """Switches to the release and lets systemd do the rest; a proxy that restarts loses no request."""
        retired = [*retire.actions(self.manifest, {str(file.path) for file in self.files})]
        if paths.PACKAGED:
            retired.append(retire.other_mode(proxy=self.proxy))
        yield from retired
        if not paths.PACKAGED:
            yield Link(paths.VENV, Path(self.release), self.manifest)
            yield Link(paths.COMMAND, paths.VENV / "bin/llmsvc", self.manifest)
        name = self.model or manager.active_model() or store.default_model()
        yield Step(
            "unit",
            "reload systemd",
            lambda: self._reload_due(name),
            lambda _: manager.daemon_reload(),
            needs=retired,
        )
        yield Step(
            "unit",
            f"enable {', '.join(self.at_boot)} at boot",
            lambda: bool(self._not_enabled()),
            self._enable,
        )
        yield self._start(services.WATCH[0])
        if self.proxy:
            yield self._start(services.PRUNE)
            yield Step("unit", partial(_start_title, manager.PROXY), self._proxy_due, self._start_proxy)
        else:
            yield Step("unit", partial(_start_title, self.socket), self._socket_due, self._start_socket)
        if name:
            yield Step(
                "unit",
                partial(_start_title, manager.unit(name)),
                lambda: (
                    (not self.proxy and self._socket_due())
                    or manager.active_model() != name
                    or self._new_release()
                    or self._changes("llama-server@.service")
                ),
                lambda undo: self._start_model(undo, name),
            )
        yield Step("file", f"note in {paths.MANIFEST} what runs", self._to_note, self._note)

    # ------------------------------------------------------------------------------------------------------

    def _start(self, unit: str) -> Action:
        return Step(
            "unit", partial(_start_title, unit), lambda: self._stale(unit), lambda undo: _restart(undo, unit)
        )

    def _changes(self, *names: str) -> bool:
        # a drop-in stands for its unit
        return any(
            file.changes
            for file in self.files
            if (
                file.path.parent.name.removesuffix(".d")
                if file.path.name == package.DROP_IN
                else file.path.name
            )
            in names
        )

    def _new_release(self) -> bool:
        return self.manifest.release != self.release

    def _config_sha(self) -> str:
        return hashlib.sha256(self.config_text.encode()).hexdigest()

    def _stale(self, unit: str) -> bool:
        return self._changes(unit) or manager.state(unit).active != "active"

    def _reload_due(self, name: str | None) -> bool:
        units = [*self.at_boot, *([manager.unit(name)] if name else [])]
        shown = run(["systemctl", "show", "-p", "NeedDaemonReload,LoadState", *units]).stdout
        return (
            any(file.changes for file in self.files)
            or self._moved()
            or bool(diff(paths.CONFIG_ENV, self.config_text))
            or "NeedDaemonReload=yes" in shown
            or "LoadState=not-found" in shown
            or (name is not None and not manager.known(name))
            or (self.model is not None and store.default_model() != name)
        )

    def _moved(self) -> bool:
        """Whether the socket listens elsewhere than it shall."""
        listening = services.listening(self.socket)
        # a proxy that failed may have lost its socket: a reload after its address was changed takes it away
        failed = manager.state(manager.PROXY).active == "failed"
        return bool(listening) and (listening != set(self.config.listen) or failed)

    def _proxy_due(self) -> bool:
        return (
            self._new_release()
            or self._moved()
            or self.manifest.config != self._config_sha()
            or self.new_password
            or self._changes(manager.PROXY, manager.SOCKET)
            or any(state.active != "active" for state in manager.states([manager.SOCKET, manager.PROXY]))
        )

    def _start_proxy(self, undo: Undo) -> None:
        for file in _files(self.config.listen):
            self.manifest.record_directories(undo.make_directory(file.parent))
        undo.appearing([*BY_SERVICES, *_files(self.config.listen)])
        undo.start([manager.SOCKET, manager.PROXY])
        if self.new_socket:
            run(["systemctl", "stop", manager.PROXY, manager.SOCKET])
            # after a reload systemd knows no more of those that were taken out
            for file in _files(self._listened - set(self.config.listen)):
                file.unlink(missing_ok=True)
        run(["systemctl", "start", manager.SOCKET])
        try:
            run(["systemctl", "restart", manager.PROXY])
        except Error as error:
            raise Error(error.message, hint=f"journalctl -u {manager.PROXY} -n 20 tells why") from None

    def _socket_due(self) -> bool:
        return self._moved() or self._changes(self.socket) or manager.state(self.socket).active != "active"

    def _start_socket(self, undo: Undo) -> None:
        undo.start([self.socket])
        # a socket is not started while its service runs
        services.stop([state.unit for state in manager.instances()])
        run(["systemctl", "restart", self.socket])

    def _start_model(self, undo: Undo, name: str) -> None:
        # systemd does not remove it any more where it has forgotten the unit
        undo.appearing([*BY_SERVICES, paths.instance_socket(name).parent])
        undo.start([manager.unit(name)])
        if manager.active_model() == name:
            manager.restart(name)
        else:
            manager.switch(name)

    def _not_enabled(self) -> list[str]:
        return [name for name, unit in services.units(self.at_boot).items() if not unit.enabled]

    def _enable(self, undo: Undo) -> None:
        new = self._not_enabled()
        for name in new:
            # not the names: where a unit's file is gone, systemctl disable leaves the links
            for link in services.links(name, (paths.UNITS / name).read_text(encoding="utf-8")):
                undo.directories([link.parent])
                undo.file(link)
        if new:
            run(["systemctl", "enable", "-q", *new])

    def _to_note(self) -> bool:
        noted = (self.manifest.release, self.manifest.config, self.manifest.source)
        return noted != (self.release, self._config_sha(), self.source or self.manifest.source)

    def _note(self, undo: Undo) -> None:
        self.manifest.release = self.release
        self.manifest.config = self._config_sha()
        self.manifest.source = self.source or self.manifest.source
        self.manifest.save()


def _files(places: Iterable[str]) -> list[Path]:
    """Of the places where a socket listens, the files."""
    return [Path(place) for place in places if place.startswith("/")]


def _start_title(unit: str) -> str:
    return f"{'restart' if manager.state(unit).active == 'active' else 'start'} {unit}"


def _restart(undo: Undo, unit: str) -> None:
    undo.appearing(BY_SERVICES)
    undo.start([unit])
    run(["systemctl", "restart", unit])
