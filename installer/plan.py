"""The plan: every action that makes this host a working LLM server, in the order of execution."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from installer import data, early, package, packages, postgres, release, render, users, wanted
from installer.actions import Action, Step, WriteFile, diff
from installer.facts import Facts
from installer.manifest import Manifest
from installer.options import Options
from installer.starting import Starting
from installer.undo import Undo
from llmsvc import atomic, config, env, paths
from llmsvc.accounts import keys
from llmsvc.config import Config
from llmsvc.library import installing, processor, sources, store
from llmsvc.library.wanted import resolve
from llmsvc.process import run

DEFAULT_MODEL = "smollm2"
TMPFILES = paths.TMPFILES / "llmsvc.conf"
DIRECTORIES = (paths.MODELS_D, paths.CREDENTIALS, paths.MODELS, paths.RUN_INSTANCES, paths.CRASHES)


class Plan:
    """The actions for one host.

    :param command_line: files that go with the command, as completions and the manual page: path to text
    :ivar files: the files of ours among them
    """

    def __init__(self, facts: Facts, options: Options, command_line: Mapping[Path, str]) -> None:
        self._command_line = command_line
        self.facts = facts
        self.options = options
        self.manifest = Manifest()
        self.config_text = wanted.with_port(
            wanted.config_text(options), self.manifest, named=options.database is not None
        )
        self.config: Config = config.parse(env.parse(self.config_text, paths.CONFIG_ENV), paths.CONFIG_ENV)
        what = options.model or (None if store.default_model() else DEFAULT_MODEL)
        self.model = resolve(what) if what else None
        """The model to install and to make the default; None leaves what is there."""
        self.proxy = self.config.llama_proxy_enabled
        """False: single-key mode."""
        self.accounts = data.Accounts(self.config, options.database_password, options.key_file)
        self.files: list[WriteFile] = []
        self.units: dict[str, str] = {}
        """The units of systemd among the files: name to text."""
        self.actions = [*self._actions()]

    @property
    def key(self) -> str | None:
        """The first user's key, or the one key, where this plan has made it."""
        return self.accounts.key

    def check(self) -> None:
        """Finds what would make the plan fail half-way, before anything is changed.

        :raises errors.Error: a wrong processor, a broken model file, a port that somebody else has
        """
        processor.check(self.config.llama_engine)
        if self.proxy and not self.config.local_database:
            self.accounts.check()
        early.check(self.config, self.model, self.options.key_file)

    def pending(self) -> list[Action]:
        """The actions that are due, in order. Changes nothing."""
        due: list[Action] = []
        for action in self.actions:
            if action.due_after(due):
                due.append(action)
        return due

    def first_user(self) -> Action | None:
        """Makes the first user; last of all, for its key is shown once and no later failure may lose it."""
        return self.accounts.first_user if self.proxy else None

    # ------------------------------------------------------------------------------------------------------

    def _actions(self) -> Iterator[Action]:
        if not paths.PACKAGED:
            yield Step(
                "package",
                f"make the environment {self.facts.release}",
                lambda: not release.complete(Path(self.facts.release)),
                lambda undo: release.make(Path(self.facts.release), undo),
            )
        local = self.proxy and self.config.local_database
        if not paths.PACKAGED:
            # a package names what it needs, and may be installed by apt right now
            yield from packages.actions(packages.wanted(database=local))
        yield from self._users_and_directories()
        yield from self._secrets_and_settings()
        if self.proxy:
            cluster = [*postgres.actions(self.config, self.manifest)] if local else []
            yield from cluster
            if local:
                yield postgres.taking_stock(self.config, self.manifest)
            yield from self.accounts.migrations(cluster)
        yield from self._units()
        yield from self._model()
        if self.proxy:
            yield self.accounts.local_key
        yield from self._starting().actions()

    def _users_and_directories(self) -> Iterator[Action]:
        if not paths.PACKAGED:
            yield self._file(users.SYSUSERS, render.ours("llmsvc.sysusers"))
        yield Step(
            "user",
            f"create the users {' and '.join(users.USERS)}, the group {paths.ADMIN_GROUP}",
            users.missing,
            partial(users.make, self.manifest),
        )
        if not paths.PACKAGED:
            yield Step(
                "file",
                f"note in {self.manifest.file} which users are ours",
                lambda: bool(users.forgotten(self.manifest)),
                lambda _: users.remember(self.manifest),
            )
            yield self._file(TMPFILES, render.ours("llmsvc.tmpfiles"))
        yield Step(
            "directory",
            f"create the directories {', '.join(map(str, DIRECTORIES))}",
            lambda: not all(directory.is_dir() for directory in DIRECTORIES),
            _make_directories,
        )

    def _secrets_and_settings(self) -> Iterator[Action]:
        if self.proxy:
            yield Step(
                "secret",
                "make the pepper of the key store",
                lambda: not paths.PEPPER.exists(),
                lambda undo: _write(undo, paths.PEPPER, keys.generate_pepper(), 0o600),
            )
        else:
            yield self.accounts.one_key
        if self.proxy and not self.config.local_database:
            yield Step(
                "secret",
                "store the password of the database",
                self._password_due,
                lambda undo: _write(
                    undo, paths.DATABASE_PASSWORD, self.options.database_password or "", 0o600
                ),
            )
        yield Step(
            "file",
            f"write {paths.CONFIG_ENV}",
            lambda: not paths.CONFIG_ENV.exists() or bool(diff(paths.CONFIG_ENV, self.config_text)),
            lambda undo: _write(undo, paths.CONFIG_ENV, self.config_text, 0o644),
            details=lambda: diff(paths.CONFIG_ENV, self.config_text),
        )

    def _units(self) -> Iterator[Action]:
        if paths.PACKAGED:
            for path, text in package.drop_ins(render.units(self.facts, self.config)).items():
                yield self._file(path, text)
            return
        for path, (text, mode) in render.files(self.facts, self.config).items():
            if path in (users.SYSUSERS, TMPFILES):
                continue
            # an old polkit takes no rules; one that is yet to be installed does
            if path.parent != paths.POLKIT_RULES or path.parent.is_dir() or packages.missing("polkitd"):
                yield self._file(path, text, mode)
            if path.parent == paths.UNITS:
                self.units[path.name] = text
        for path, text in self._command_line.items():
            yield self._file(path, text)

    def _model(self) -> Iterator[Action]:
        if self.model is None:
            return
        what, name = self.options.model or DEFAULT_MODEL, self.model.name
        carried = self.options.wheelhouse and isinstance(self.model.source, sources.Pypi)
        yield Step(
            "model",
            f"install the model {name} from {self.options.wheelhouse if carried else self.model.source}",
            lambda: installing.pending(what) is not None,
            lambda undo: self._install_model(undo, what, name),
        )
        if self.facts.gpu != "none":
            yield Step(
                "model",
                f"have {name} start only with the GPU (REQUIRE_GPU=1)",
                lambda: _gpu_optional(name),
                lambda undo: _require_gpu(undo, name),
            )
        yield Step(
            "model",
            f"make {name} the default model",
            lambda: store.default_model() != name,
            lambda undo: _set_default(undo, name),
        )

    def _starting(self) -> Starting:
        return Starting(
            config=self.config,
            config_text=self.config_text,
            release=self.facts.release,
            manifest=self.manifest,
            files=self.files,
            units=self.units,
            model=self.model.name if self.model else None,
            new_password=self.proxy and not self.config.local_database and self._password_due(),
            source=self.options.source,
        )

    # ------------------------------------------------------------------------------------------------------

    def _file(self, path: Path, text: str, mode: int = 0o644) -> WriteFile:
        action = WriteFile(path, text, self.manifest, mode=mode)
        self.files.append(action)
        return action

    def _password_due(self) -> bool:
        if not paths.DATABASE_PASSWORD.exists():
            return True
        given = self.options.database_password
        return given is not None and paths.DATABASE_PASSWORD.read_text(encoding="utf-8") != given

    def _install_model(self, undo: Undo, what: str, name: str) -> None:
        env_file = store.env_file(name)
        undo.file(env_file)
        assert self.model
        undo.model(self.config.llama_models_dir, keep=isinstance(self.model.source, sources.Hub))
        wheels = installing.Options(wheelhouse=self.options.wheelhouse)
        installing.ensure(what, config=self.config, options=wheels)


def _write(undo: Undo, path: Path, text: str, mode: int) -> None:
    path = path.resolve()  # settings may be kept elsewhere, with a link to them here
    undo.file(path)
    atomic.write(path, text, mode)


def _make_directories(undo: Undo) -> None:
    undo.directories(DIRECTORIES)
    run(["systemd-tmpfiles", "--create", TMPFILES])


def _gpu_optional(name: str) -> bool:
    """Whether the model would start without the GPU though nobody said so."""
    entries = {key: entry.value for key, entry in env.read(store.env_file(name)).items()}
    unwanted = entries.get("GPU") == "none" or entries.get("N_GPU_LAYERS") == "0"
    return "REQUIRE_GPU" not in entries and not unwanted


def _require_gpu(undo: Undo, name: str) -> None:
    file = store.env_file(name)
    text = env.set_values(file.read_text(encoding="utf-8"), {"REQUIRE_GPU": "1"})
    _write(undo, file, text, 0o644)


def _set_default(undo: Undo, name: str) -> None:
    undo.file(paths.DEFAULT_MODEL)
    store.set_default(name)
