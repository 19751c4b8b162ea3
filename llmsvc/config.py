"""The settings of this machine: what /etc/llmsvc/config.env may hold, and what a model may be called."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmsvc import env, paths
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

ENGINES = ("llama-cpp-python", "native")
"""What can run a model."""

_UNIX_SOCKET = re.compile(r"(/[A-Za-z0-9._-]+)+\Z")
_TCP = re.compile(r"(\[[^\]]+\]|[^:\s]+):([0-9]+)\Z")


def listener(text: str) -> str:
    """`127.0.0.1:8001`, `[::1]:8001` or the path of a unix socket, as systemd's ListenStream= has it."""
    if text.startswith("/"):
        if not _UNIX_SOCKET.match(text):
            raise ValueError(f"a path may have letters, digits, '.', '_' and '-' in it, not as {text[:60]!r}")
        return text
    match = _TCP.match(text)
    if not match:
        raise ValueError("must be ADDRESS:PORT, or the path of a unix socket")
    return _stream(env.address(match[1]), env.integer(1, 65535)(match[2]))


def listeners(text: str) -> list[str]:
    """Several of them, with blanks between."""
    return [listener(word) for word in text.split()]


def _stream(host: str, port: int) -> str:
    return f"{f'[{host}]' if ':' in host else host}:{port}"


CONFIG: tuple[env.Setting, ...] = (
    env.Setting(
        "LLAMA_PROXY_ENABLED",
        env.boolean,
        "1",
        "0: single-key mode, without proxy and database: the model itself listens on LLAMA_SERVER_HOST and "
        "_PORT, and one key is for all. To be changed by 'llmsvc install --no-proxy' and '--proxy'.",
    ),
    env.Setting(
        "LLAMA_PROXY_HOST",
        env.address,
        "127.0.0.1",
        "Address on which clients reach the service. 0.0.0.0 or :: for all networks.",
    ),
    env.Setting(
        "LLAMA_PROXY_PORT",
        env.integer(1, 65535),
        "8001",
        "TCP port on which clients reach the service.",
    ),
    env.Setting(
        "LLAMA_PROXY_TLS_CERT",
        env.absolute_path,
        "",
        "HTTPS instead of HTTP: file with the certificate and its chain (PEM), such as fullchain.pem of "
        "Let's Encrypt. Read by root at each start of the proxy: restart it after a renewal.",
    ),
    env.Setting(
        "LLAMA_PROXY_TLS_KEY",
        env.absolute_path,
        "",
        "File with the certificate's private key (PEM, without a password); only root need read it.",
    ),
    env.Setting(
        "LLAMA_PROXY_LISTEN",
        listeners,
        "",
        "More places on which clients reach the service, with blanks between: ADDRESS:PORT, [IPV6]:PORT, or "
        "the path of a unix socket.",
    ),
    env.Setting(
        "LLAMA_SERVER_HOST",
        env.address,
        "127.0.0.1",
        "In single-key mode: address on which clients reach the model.",
    ),
    env.Setting(
        "LLAMA_SERVER_PORT",
        env.integer(1, 65535),
        "8000",
        "In single-key mode: TCP port on which clients reach the model.",
    ),
    env.Setting(
        "LLAMA_PROXY_RATE_LIMIT",
        env.integer(1, 1000000),
        "60",
        "Requests that one user may send per window; more get 429 with the exact Retry-After.",
    ),
    env.Setting(
        "LLAMA_PROXY_RATE_WINDOW_SECONDS",
        env.integer(1, 86400),
        "60",
        "Length of that sliding window.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_PROXY_CONCURRENT",
        env.integer(0, 100000),
        "0",
        "Requests that one user may have open at once, waiting or running; more get 429. 0: no limit.",
    ),
    env.Setting(
        "LLAMA_PROXY_TOKENS_PER_MINUTE",
        env.integer(0, 10**9),
        "0",
        "Tokens, of prompts and answers, that one user may use within 60 s; more get 429. 0: no limit.",
        "tokens",
    ),
    env.Setting(
        "LLAMA_PROXY_TOKENS_PER_DAY",
        env.integer(0, 10**12),
        "0",
        "Tokens, of prompts and answers, that one user may use within 24 hours; more get 429. 0: no limit.",
        "tokens",
    ),
    env.Setting(
        "LLAMA_PROXY_END_USERS",
        env.integer(1, 1000000),
        "1000",
        "People a day whom one trusted front end (llmsvc key add --on-behalf-of) may name; each has the "
        "limits of the front end's user for itself. More count as that user.",
    ),
    env.Setting(
        "LLAMA_PROXY_QUEUE_PER_USER",
        env.integer(1, 100000),
        "64",
        "Requests of one user that may wait for the model at once, of 64 MiB together; more get 429.",
    ),
    env.Setting(
        "LLAMA_PROXY_QUEUE_TOTAL",
        env.integer(1, 1000000),
        "1024",
        "Requests that may wait for the model in all, of 512 MiB together; more get 503.",
    ),
    env.Setting(
        "LLAMA_PROXY_QUEUE_SECONDS",
        env.integer(1, 86400),
        "600",
        "Longest wait for the model's turn; then 503.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_PROXY_HOLD_SECONDS",
        env.integer(0, 290),
        "120",
        "How long requests are held while no model is ready (switch, restart, crash); then 503.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_PROXY_DRAIN_SECONDS",
        env.integer(1, 300),
        "30",
        "How long a stopping proxy, and a stopping model, let running requests finish.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_PROXY_MAX_BODY_BYTES",
        env.integer(1024, 1073741824),
        "4194304",
        "Largest request body; larger ones get 413.",
        "bytes",
    ),
    env.Setting(
        "LLAMA_PROXY_BODY_SECONDS",
        env.integer(1, 3600),
        "30",
        "Time in which a request body must have arrived; then 408.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_PROXY_HEADER_SECONDS",
        env.integer(1, 3600),
        "20",
        "Time in which the headers of a request must have arrived, also those of a connection's first one; "
        "then 408.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_PROXY_MAX_CONNECTIONS",
        env.integer(16, 60000),
        "8192",
        "Connections of clients at once; more get 503. The unit's LimitNOFILE=65536 has room for 60000.",
    ),
    env.Setting(
        "LLAMA_PROXY_MAX_CONNECTIONS_PER_ADDRESS",
        env.integer(1, 60000),
        "2048",
        "Connections of one address at once, trusted proxies excepted; more get 429.",
    ),
    env.Setting(
        "LLAMA_PROXY_TRUSTED_PROXIES",
        env.networks("unix"),
        "",
        "Reverse proxies whose X-Forwarded-For (or Forwarded) tells the client's address: addresses and "
        "networks, 'unix' for a unix socket. Example: 127.0.0.1 10.0.0.0/8",
    ),
    env.Setting(
        "LLAMA_PROXY_CORS_ORIGINS",
        env.origins,
        "",
        "Web pages that may use the API from a browser: origins such as https://chat.example.org, or * for "
        "all. Empty: none.",
    ),
    env.Setting(
        "LLAMA_PROXY_MAX_TOKENS",
        env.integer(1, 10000000),
        "4096",
        "Tokens that an answer may have where the client does not say max_tokens.",
        "tokens",
    ),
    env.Setting(
        "LLAMA_PROXY_MAX_TOKENS_LIMIT",
        env.integer(0, 10000000),
        "0",
        "Tokens that an answer may have at most; a larger max_tokens becomes this. 0: no limit.",
        "tokens",
    ),
    env.Setting(
        "LLAMA_PROXY_MAX_SECONDS",
        env.integer(1, 86400),
        "600",
        "Time on the model that a request may take while others wait; then it ends with "
        "finish_reason 'length'.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_ENGINE",
        env.choice(*ENGINES),
        "llama-cpp-python",
        "What runs a model whose file in models.d does not say ENGINE.",
    ),
    env.Setting(
        "LLAMA_PROXY_OTHER_MODEL",
        env.choice("refuse", "serve"),
        "refuse",
        "A request that names another model than the loaded one: 'refuse' it with 404, or 'serve' it "
        "with the loaded one.",
    ),
    env.Setting(
        "LLAMA_PROXY_AUTOSWITCH",
        env.boolean,
        "0",
        "1: a request that names another installed model switches to it, if its user may "
        "(llmsvc user set NAME --may-switch).",
    ),
    env.Setting(
        "LLAMA_PROXY_SWITCH_SECONDS",
        env.integer(0, 86400),
        "30",
        "With LLAMA_PROXY_AUTOSWITCH: how long a model stays at least before a request may replace it.",
        "seconds",
    ),
    env.Setting(
        "LLAMA_IDLE_UNLOAD_SECONDS",
        env.integer(0, 31536000),
        "0",
        "Stop the model after so long without a request; the next request starts it again. 0: never.",
        "seconds",
    ),
    env.Setting(
        "POSTGRES_AUTH_HOST",
        env.string,
        "/run/postgresql",
        "PostgreSQL: directory of the local socket (peer authentication, no password) or a host name.",
    ),
    env.Setting(
        "POSTGRES_AUTH_PORT",
        env.integer(1, 65535),
        "5432",
        "PostgreSQL: port, also of the local socket.",
    ),
    env.Setting(
        "POSTGRES_AUTH_DB",
        env.string,
        "llmsvc",
        "PostgreSQL: name of the database.",
    ),
    env.Setting(
        "POSTGRES_AUTH_USER",
        env.string,
        paths.PROXY_USER,
        "PostgreSQL: name of the role.",
    ),
    env.Setting(
        "POSTGRES_AUTH_SSLMODE",
        env.choice("disable", "prefer", "require", "verify-ca", "verify-full"),
        "prefer",
        "PostgreSQL: TLS over TCP, as libpq names it.",
    ),
    env.Setting(
        "POSTGRES_AUTH_SSLROOTCERT",
        env.absolute_path,
        "/etc/ssl/certs/ca-certificates.crt",
        "PostgreSQL: certificates of the authorities that may have signed the server's, for verify-ca and "
        "verify-full.",
    ),
    env.Setting(
        "LLAMA_LEDGER_RETENTION_DAYS",
        env.integer(0, 36500),
        "90",
        "How long the rows of requests are kept; their sums stay when the night removes them. 0: for ever.",
        "days",
    ),
    env.Setting(
        "LLAMA_MODELS_DIR",
        env.absolute_path,
        str(paths.MODELS),
        "Where model files are stored.",
    ),
)
_KNOWN = {setting.key for setting in CONFIG}


@dataclasses.dataclass(frozen=True)
class Config:
    """The values of config.env. Fields are the keys in lower case; units as CONFIG says."""

    llama_proxy_enabled: bool
    llama_proxy_host: str
    llama_proxy_port: int
    llama_proxy_tls_cert: Path | None
    llama_proxy_tls_key: Path | None
    llama_proxy_listen: list[str] | None
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
        first = _stream(*self.address)
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
        return f"{scheme}://{_stream({'0.0.0.0': '127.0.0.1', '::': '::1'}.get(host, host), port)}/v1"

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
    found = env.resolve([setting for setting in CONFIG if setting.key in keys], env.read(file), file)
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
    return Config(**{key.lower(): value for key, value in env.resolve(CONFIG, entries, file).items()})


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
