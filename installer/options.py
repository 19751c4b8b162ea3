"""What the admin asked `llmsvc install` for."""

from __future__ import annotations

import dataclasses
import urllib.parse
from collections.abc import Sequence
from pathlib import Path

from llmsvc import config, config_settings, env, paths
from llmsvc.errors import UsageError

_SSL_MODES = ("disable", "prefer", "require", "verify-ca", "verify-full")


@dataclasses.dataclass(frozen=True)
class Database:
    """What a connection URL says. A `host` that begins with a slash is the directory of a local socket."""

    host: str
    port: int
    name: str
    user: str
    sslmode: str
    sslrootcert: str | None

    @property
    def local(self) -> bool:
        """Whether it is on this machine, and no password is needed."""
        return self.host.startswith("/")

    def settings(self) -> dict[str, str]:
        """The same for config.env."""
        values = {
            "POSTGRES_AUTH_HOST": self.host,
            "POSTGRES_AUTH_PORT": str(self.port),
            "POSTGRES_AUTH_DB": self.name,
            "POSTGRES_AUTH_USER": self.user,
            "POSTGRES_AUTH_SSLMODE": self.sslmode,
        }
        return values | ({"POSTGRES_AUTH_SSLROOTCERT": self.sslrootcert} if self.sslrootcert else {})


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of `llmsvc install`; None is what was not said."""

    model: str | None = None
    """A catalogue name, a .gguf file or OWNER/REPO/FILE.gguf."""
    listen: tuple[str, ...] = ()
    """Where clients connect, as parse_listen() returns it; a TCP address first."""
    proxy: bool | None = None
    """False: single-key mode."""
    wheelhouse: Path | None = None
    key_file: Path | None = None
    database: Database | None = None
    """Where PostgreSQL is."""
    database_password: str | None = None
    source: str = ""
    """The checkout that this release was made from."""
    engine: str | None = None
    """What runs the models that do not say it themselves: one of config_settings.ENGINES."""

    def settings(self, text: str) -> dict[str, str]:
        """What they change in config.env.

        :param text: what it is now; empty where there is none
        :raises UsageError: they do not fit the mode
        """
        values = {}
        if self.proxy is not None:
            values["LLAMA_PROXY_ENABLED"] = "1" if self.proxy else "0"
        if self.database:
            values |= self.database.settings()
        if self.listen:
            proxy = self.proxy
            if proxy is None:
                parsed = config.parse(env.parse(text, paths.CONFIG_ENV), paths.CONFIG_ENV)
                proxy = parsed.llama_proxy_enabled
            values |= _listen(self.listen, text, proxy=proxy)
        if self.engine:
            values["LLAMA_ENGINE"] = self.engine
        return values


def parse_listen(places: Sequence[str]) -> tuple[str, ...]:
    """`127.0.0.1:8001`, `[::1]:8001`, `0.0.0.0:80`, `/run/llmsvc.sock`, in one way of writing.

    :raises UsageError: it is something else, or none of them is a TCP address
    """
    found = []
    for text in places:
        try:
            found.append(config_settings.listener(text))
        except ValueError as error:
            raise UsageError(
                f"--listen {text}: {error}",
                hint="for example --listen 0.0.0.0:8001, --listen '[::1]:8001' or --listen /run/llmsvc.sock",
            ) from None
    first = next((place for place in found if not place.startswith("/")), None)
    if found and first is None:
        raise UsageError(
            "--listen names no TCP address, by which this machine checks its own service",
            hint="add --listen 127.0.0.1:8001",
        )
    return tuple(dict.fromkeys([*([first] if first else []), *found]))


def parse_database(text: str) -> Database:
    """`postgresql://USER@HOST:PORT/NAME?sslmode=…&sslrootcert=…`, or `postgresql:///NAME?host=/DIRECTORY`.

    :raises UsageError: it is something else, or holds a password
    """
    example = "for example --database 'postgresql://llmsvc@db.example.org:5432/llmsvc?sslmode=verify-full'"
    try:
        url = urllib.parse.urlsplit(text)
        query = dict(
            urllib.parse.parse_qsl(url.query, keep_blank_values=True, strict_parsing=bool(url.query))
        )
        if url.scheme not in ("postgresql", "postgres"):
            raise ValueError("must begin with postgresql://")
        if url.password is not None or "password" in query:
            raise UsageError(
                "--database: a password on the command line can be read by everybody on this machine",
                hint="leave it out: you are asked for it, or name a file by --database-password-file",
            )
        if unknown := query.keys() - {"host", "port", "sslmode", "sslrootcert"}:
            raise ValueError(f"{unknown.pop()} is not known")
        host = query.get("host") or urllib.parse.unquote(url.hostname or "") or "/run/postgresql"
        local = host.startswith("/")
        sslmode = query.get("sslmode", "prefer" if local else "verify-full")
        if sslmode not in _SSL_MODES:
            raise ValueError(f"sslmode must be one of {', '.join(_SSL_MODES)}")
        port = query.get("port") or (str(url.port) if url.port else "5432")
        return Database(
            host=host,
            port=int(env.integer(1, 65535)(port)),
            name=urllib.parse.unquote(url.path.removeprefix("/")) or "llmsvc",
            user=urllib.parse.unquote(url.username or "") or paths.PROXY_USER,
            sslmode=sslmode,
            sslrootcert=str(env.absolute_path(query["sslrootcert"])) if "sslrootcert" in query else None,
        )
    except ValueError as error:
        raise UsageError(f"--database: {error}", hint=example) from None


def _listen(places: tuple[str, ...], text: str, *, proxy: bool) -> dict[str, str]:
    host, _, port = places[0].rpartition(":")
    host = host.strip("[]")
    if proxy:
        values = {"LLAMA_PROXY_HOST": host, "LLAMA_PROXY_PORT": port}
        if places[1:] or "\nLLAMA_PROXY_LISTEN=" in text:
            values["LLAMA_PROXY_LISTEN"] = " ".join(places[1:])
        return values
    if len(places) > 1:
        raise UsageError("in single-key mode there is one address", hint="name one --listen")
    return {"LLAMA_SERVER_HOST": host, "LLAMA_SERVER_PORT": port}
