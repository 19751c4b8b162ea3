"""The configuration of this machine, read from /etc/llmsvc/config.env, and what a model may be called."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmsvc import env, paths
from llmsvc.config_settings import SETTINGS, stream_address
from llmsvc.errors import SettingError

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
MODEL_NAME_RULE = (
    "lower-case letters, digits, '.', '_' and '-', at most 63, the first a letter or digit; not 'current'"
)


def valid_model_name(name: str) -> bool:
    """Whether `name` may name an instance llama-server@NAME and its models.d/NAME.env."""
    return bool(MODEL_NAME.match(name)) and name != "current"


SECRETS = {
    "LLAMA_API_KEY": "api-key",
    "POSTGRES_AUTH_PASSWORD": "database-password",
    "HF_TOKEN": "hf-token",
}
"""Keys that must not stand in an env file, and the credential that holds them instead."""

_KNOWN = {setting.key for setting in SETTINGS}


@dataclasses.dataclass(frozen=True)
class Config:
    """The values of config.env. Fields are the keys in lower case; units as SETTINGS says."""

    llama_proxy_enabled: bool
    llama_proxy_host: str
    llama_proxy_port: int
    llama_proxy_tls_cert: Path | None
    llama_proxy_tls_key: Path | None
    llama_proxy_listen: list[str] | None
    llama_public_url: str | None
    llama_server_host: str
    llama_server_port: int
    llama_proxy_rate_limit: int
    llama_proxy_rate_window_seconds: int
    llama_proxy_concurrent: int
    llama_proxy_tokens_per_minute: int
    llama_proxy_tokens_per_day: int
    llama_proxy_end_users: int
    llama_proxy_queue_per_user: int
    llama_proxy_queue_total: int
    llama_proxy_queue_seconds: int
    llama_proxy_hold_seconds: int
    llama_proxy_drain_seconds: int
    llama_proxy_max_body_bytes: int
    llama_proxy_body_seconds: int
    llama_proxy_header_seconds: int
    llama_proxy_max_connections: int
    llama_proxy_max_connections_per_address: int
    llama_proxy_trusted_proxies: tuple[env.Network | str, ...] | None
    llama_proxy_cors_origins: tuple[str, ...] | None
    llama_proxy_max_tokens: int
    llama_proxy_max_tokens_limit: int
    llama_proxy_max_seconds: int
    llama_engine: str
    llama_proxy_other_model: str
    llama_proxy_autoswitch: bool
    llama_proxy_switch_seconds: int
    llama_idle_unload_seconds: int
    postgres_auth_host: str
    postgres_auth_port: int
    postgres_auth_db: str
    postgres_auth_user: str
    postgres_auth_sslmode: str
    postgres_auth_sslrootcert: Path
    llama_ledger_retention_days: int
    llama_models_dir: Path

    @property
    def local_database(self) -> bool:
        """Whether PostgreSQL is one of this machine, reached by its unix socket without a password."""
        return self.postgres_auth_host.startswith("/")

    @property
    def verifies_database(self) -> bool:
        """Whether PostgreSQL must show a certificate that somebody signed."""
        return self.postgres_auth_sslmode in ("verify-ca", "verify-full")

    @property
    def listen(self) -> list[str]:
        """Where clients connect, as systemd's ListenStream= has it."""
        more = self.llama_proxy_listen or [] if self.llama_proxy_enabled else []
        first = stream_address(*self.address)
        return [first, *(place for place in more if place != first)]

    @property
    def address(self) -> tuple[str, int]:
        """Where clients connect in the first place: address and TCP port."""
        if self.llama_proxy_enabled:
            return self.llama_proxy_host, self.llama_proxy_port
        return self.llama_server_host, self.llama_server_port

    @property
    def base_url(self) -> str:
        """The base URL for clients on this machine, ending in /v1."""
        host, port = self.address
        scheme = "https" if self.has_tls else "http"
        return f"{scheme}://{stream_address({'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host), port)}/v1"

    @property
    def told_url(self) -> str:
        """The base URL that users are told, ending in /v1."""
        return f"{self.llama_public_url}/v1" if self.llama_public_url else self.base_url

    @property
    def has_tls(self) -> bool:
        """Whether clients speak HTTPS; in single-key mode they never do."""
        return self.llama_proxy_enabled and self.llama_proxy_tls_cert is not None


def load(file: Path = paths.CONFIG_ENV) -> Config:
    """Reads config.env; an absent file means all defaults.

    :raises SettingError: an unknown key, a secret, or a bad value, with file and line
    """
    return parse(env.read(file), file)


def values(*keys: str, file: Path = paths.CONFIG_ENV) -> tuple[Any, ...]:
    """Some of the settings, as asked for: a bad value elsewhere must not keep a model from starting.

    :raises SettingError: one of these is bad
    """
    found = env.resolve([setting for setting in SETTINGS if setting.key in keys], env.read(file), file)
    return tuple(found[key] for key in keys)


def parse(entries: Mapping[str, env.Entry], file: Path) -> Config:
    """The configuration that the entries of a config.env make; see load()."""
    for entry in entries.values():
        refuse_secret(entry, file)
        if entry.key not in _KNOWN:
            raise SettingError(
                "unknown setting",
                file=file,
                line=entry.line,
                key=entry.key,
                hint=env.closest_hint(entry.key, _KNOWN),
            )
    return Config(**{key.lower(): value for key, value in env.resolve(SETTINGS, entries, file).items()})


def refuse_secret(entry: env.Entry, file: Path) -> None:
    """Raises SettingError if the key is one of SECRETS; the value is never part of the message."""
    if entry.key in SECRETS:
        raise SettingError(
            "a secret does not belong into this file, which everybody can read",
            file=file,
            line=entry.line,
            key=entry.key,
            hint=f"remove the line; put the value into {paths.CREDENTIALS / SECRETS[entry.key]} (mode 0600)",
        )
