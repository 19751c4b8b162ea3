"""The plan: every action that makes this host a working LLM server, in the order of execution."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Iterator, Mapping
from pathlib import Path

from installer import package, postgres, render
from installer.actions import Action, Step, WriteFile
from installer.facts import Facts, port_taken
from installer.manifest import Manifest
from installer.options import Options
from llmsvc import atomic, config, env, paths
from llmsvc.accounts import audit, keys, keystore, local, meta, users
from llmsvc.config import Config
from llmsvc.database import connect, schema
from llmsvc.errors import ConflictError, Error
from llmsvc.library import gguf, installing, sources, store
from llmsvc.library.wanted import resolve
from llmsvc.process import run
from llmsvc.systemd import manager

DEFAULT_MODEL = "smollm2"
FIRST_USER = "admin"
WATCH = ("llmsvc-models.path", "llmsvc-models.service", "llmsvc-models-reload.service")
"""What makes changes in models.d known to systemd; the first is enabled."""
PRUNE = "llmsvc-prune.timer"


class Plan:
    """The actions for one host. `key` is the first user's key, once the plan has made one.

    :param command_line: files that go with the command, as completions and the manual page: path to text
    """

    def __init__(self, facts: Facts, options: Options, command_line: Mapping[Path, str]) -> None:
        self._command_line = command_line
        self.facts = facts
        self.options = options
        self.manifest = Manifest()
        self.key: str | None = None
        self._config_text = _wanted_config(options)
        self.config: Config = config.parse(env.parse(self._config_text, paths.CONFIG_ENV), paths.CONFIG_ENV)
        what = options.model or (None if store.default_model() else DEFAULT_MODEL)
        self.model = resolve(what) if what else None
        """The model to install and to make the default; None leaves what is there."""
        self.files: list[WriteFile] = []
        self._stale: set[str] = set()
        """Units that run with an older text, setting or release than what is on disk by now."""

    def check(self) -> None:
        """Finds what would make the plan fail half-way, before anything is changed.

        :raises errors.Error: a broken model file, or a port that somebody else has
        """
        if self.model and isinstance(self.model.source, sources.Local):
            gguf.read_header(self.model.source.path)
        host, port = self.config.llama_proxy_host, self.config.llama_proxy_port
        # a port that our own socket holds is free for another address of ours
        ours = any(address.endswith(f":{port}") for address in _listening())
        if not ours and (why := port_taken(host, port)):
            raise ConflictError(
                f"cannot listen on {host} port {port}: {why}",
                hint="'ss -ltnp' tells who does; choose another one with --listen ADDRESS:PORT",
            )

    def actions(self) -> Iterator[Action]:
        """The actions in order. Whether one is due is to be asked after those before it were applied."""
        yield from self._users_and_directories()
        yield from self._secrets_and_settings()
        yield from self._database()
        yield from self._units()
        yield from self._model()
        yield Step("make this machine's own key", self._local_key_due, self._make_local_key)
        yield from self._services()

    def first_user(self) -> Action:
        """Makes the first user; last of all, for its key is shown once and no later failure may lose it."""
        return Step(f"create the first user, {FIRST_USER}", self._first_user_due, self._first_user)

    # ------------------------------------------------------------------------------------------------------

    def _users_and_directories(self) -> Iterator[Action]:
        sysusers, tmpfiles = paths.SYSUSERS / "llmsvc.conf", paths.TMPFILES / "llmsvc.conf"
        directories = (paths.MODELS_D, paths.CREDENTIALS, paths.MODELS, paths.RUN_INSTANCES, paths.CRASHES)
        if not paths.PACKAGED:
            yield self._file(sysusers, _ours("llmsvc.sysusers"))
        yield Step(
            f"create the users {paths.PROXY_USER} and {paths.BACKEND_USER}, the group {paths.ADMIN_GROUP}",
            _users_missing,
            lambda: run(["systemd-sysusers", sysusers]),
        )
        if not paths.PACKAGED:
            yield self._file(tmpfiles, _ours("llmsvc.tmpfiles"))
        yield Step(
            "create the directories in /etc/llmsvc and /var/lib/llmsvc",
            lambda: not all(directory.is_dir() for directory in directories),
            lambda: run(["systemd-tmpfiles", "--create", tmpfiles]),
        )

    def _secrets_and_settings(self) -> Iterator[Action]:
        yield Step(
            "make the pepper of the key store",
            lambda: not paths.PEPPER.exists(),
            lambda: atomic.write(paths.PEPPER, keys.generate_pepper(), 0o600),
        )
        yield Step(
            f"write {paths.CONFIG_ENV}",
            lambda: _text(paths.CONFIG_ENV) != self._config_text,
            self._write_config,
        )

    def _database(self) -> Iterator[Action]:
        if self.config.postgres_auth_host.startswith("/"):
            yield from postgres.actions(self.config)
        yield Step("apply the database migrations", self._migrations_due, self._migrate)

    def _units(self) -> Iterator[Action]:
        if paths.PACKAGED:
            for path, text in package.drop_ins(render.units(self.facts)).items():
                yield self._file(path, text)
            return
        yield self._file(paths.GENERATORS / "llmsvc-generator", _ours("llmsvc-generator"), mode=0o755)
        units = {name: _ours(name) for name in (manager.SOCKET, manager.SLICE, *WATCH, PRUNE)}
        for name, text in sorted((units | render.units(self.facts)).items()):
            yield self._file(paths.UNITS / name, text)
        for path, text in self._command_line.items():
            yield self._file(path, text)
        if paths.POLKIT_RULES.is_dir():
            yield self._file(paths.POLKIT_RULES / "50-llmsvc.rules", _ours("50-llmsvc.rules"))

    def _model(self) -> Iterator[Action]:
        if self.model:
            what, name = self.options.model or DEFAULT_MODEL, self.model.name
            wheels = installing.Options(wheelhouse=self.options.wheelhouse)
            yield Step(
                f"install the model {name} from {self.model.source}",
                lambda: installing.pending(what) is not None,
                lambda: installing.ensure(what, config=self.config, options=wheels),
            )
            yield Step(
                f"make {name} the default model",
                lambda: store.default_model() != name,
                lambda: store.set_default(name),
            )
        yield Step("reload systemd", self._reload_due, manager.daemon_reload)

    def _services(self) -> Iterator[Action]:
        if self.manifest.release != self.facts.release:
            self._stale |= {manager.PROXY, "llama-server@.service"}
        boot = [manager.SOCKET, manager.PROXY, WATCH[0], PRUNE]
        yield Step(
            "enable the services at boot",
            lambda: run(["systemctl", "is-enabled", *boot], check=False).stdout.split() != ["enabled"] * 4,
            lambda: run(["systemctl", "enable", "-q", *boot]),
        )
        for watching in (WATCH[0], PRUNE):
            yield self._start(watching)
        yield Step("start auth-proxy", self._proxy_due, self._start_proxy)
        name = self.model.name if self.model else manager.active_model() or store.default_model()
        if name:
            yield Step(
                f"start llama-server@{name}",
                lambda: manager.active_model() != name or "llama-server@.service" in self._stale,
                lambda: self._start_model(name),
            )
        yield Step(
            "note which release runs", lambda: self.manifest.release != self.facts.release, self._note_release
        )

    # ------------------------------------------------------------------------------------------------------

    def _file(self, path: Path, text: str, mode: int = 0o644) -> WriteFile:
        # a drop-in stands for its unit
        unit = path.parent.name.removesuffix(".d") if path.name == package.DROP_IN else path.name
        action = WriteFile(path, text, self.manifest, mode=mode, written=lambda _: self._stale.add(unit))
        self.files.append(action)
        return action

    def _start(self, unit: str) -> Action:
        return Step(
            f"start {unit}",
            lambda: unit in self._stale or manager.state(unit).active != "active",
            lambda: run(["systemctl", "restart", unit]),
        )

    def _write_config(self) -> None:
        atomic.write(paths.CONFIG_ENV, self._config_text, 0o644)
        self._stale.add(manager.PROXY)

    def _migrations_due(self) -> bool:
        with connect(self.config) as connection:
            return bool(schema.pending(connection))

    def _migrate(self) -> None:
        with connect(self.config) as connection:
            schema.migrate(connection)

    def _local_key_due(self) -> bool:
        with connect(self.config) as connection:
            pepper = keys.read_pepper(paths.PEPPER)
            meta.bind_pepper(connection, pepper)
            return not local.is_current(connection, pepper, paths.LOCAL_KEY)

    def _make_local_key(self) -> None:
        with connect(self.config) as connection:
            local.ensure(connection, keys.read_pepper(paths.PEPPER), paths.LOCAL_KEY)

    def _first_user_due(self) -> bool:
        with connect(self.config) as connection:
            return not users.every(connection)

    def _first_user(self) -> None:
        pepper = keys.read_pepper(paths.PEPPER)
        with connect(self.config) as connection, connection.transaction():
            users.create(connection, FIRST_USER, role="admin")
            self.key = keystore.add(connection, pepper, FIRST_USER).secret
            audit.record(connection, "user add", FIRST_USER)
            # before the commit: a file that cannot be written must not cost the only sight of the key
            if self.options.key_file:
                atomic.write(self.options.key_file, self.key + "\n", 0o600)

    def _address(self) -> str:
        host = self.config.llama_proxy_host
        return f"{f'[{host}]' if ':' in host else host}:{self.config.llama_proxy_port}"

    def _reload_due(self) -> bool:
        name = self.model.name if self.model else store.default_model()
        units = [manager.PROXY, manager.SOCKET, *([manager.unit(name)] if name else [])]
        shown = run(["systemctl", "show", "-p", "NeedDaemonReload,LoadState", *units]).stdout
        listening = _listening()
        if listening and self._address() not in listening:
            self._stale.add(manager.SOCKET)
        return (
            bool(self._stale)
            or "NeedDaemonReload=yes" in shown
            or "LoadState=not-found" in shown
            or (name is not None and not manager.known(name))
        )

    def _proxy_due(self) -> bool:
        return bool(self._stale & {manager.PROXY, manager.SOCKET}) or any(
            state.active != "active" for state in manager.states([manager.SOCKET, manager.PROXY])
        )

    def _start_proxy(self) -> None:
        if manager.SOCKET in self._stale:
            run(["systemctl", "stop", manager.PROXY, manager.SOCKET])
        run(["systemctl", "start", manager.SOCKET])
        try:
            run(["systemctl", "restart", manager.PROXY])
        except Error as error:
            raise Error(error.message, hint=f"journalctl -u {manager.PROXY} -n 20 tells why") from None

    def _start_model(self, name: str) -> None:
        if manager.active_model() == name:
            manager.restart(name)
        else:
            manager.switch(name)

    def _note_release(self) -> None:
        self.manifest.release = self.facts.release
        self.manifest.save()


def _ours(name: str) -> str:
    return paths.data("units", name).read_text(encoding="utf-8")


def _text(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None


def _users_missing() -> bool:
    try:
        pwd.getpwnam(paths.PROXY_USER)
        pwd.getpwnam(paths.BACKEND_USER)
        grp.getgrnam(paths.ADMIN_GROUP)
    except KeyError:
        return True
    return False


def _listening() -> set[str]:
    """Each ADDRESS:PORT of auth-proxy.socket as systemd knows them; none where it does not listen."""
    shown = run(["systemctl", "show", "-p", "Listen,ActiveState", manager.SOCKET], check=False).stdout
    lines = [line.partition("=") for line in shown.splitlines()]
    if ("ActiveState", "=", "active") not in lines:
        return set()
    return {value.split(" ")[0] for key, _, value in lines if key == "Listen"}


def _wanted_config(options: Options) -> str:
    """config.env as it shall be: the admin's own text with what the options ask for, or a new one."""
    wanted = {}
    if options.listen:
        wanted = {"LLAMA_PROXY_HOST": options.listen[0], "LLAMA_PROXY_PORT": str(options.listen[1])}
    text = _text(paths.CONFIG_ENV)
    return render.config_env(wanted) if text is None else env.set_values(text, wanted)
