"""Settings: the syntax of our env files, and what config.env may hold. The only place for both.

An env file is what systemd calls an EnvironmentFile: `KEY=value`, comments after `#` or `;` at the start of a
line, values bare or in quotes. The services read it themselves rather than through the environment: a bad
value can then be named with file and line, and nothing of it shows in /proc.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from llmsvc import paths
from llmsvc.errors import SettingError

_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")
MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}\Z")
MODEL_NAME_RULE = (
    "lower-case letters, digits, '.', '_' and '-', at most 63, the first a letter or digit; not 'current'"
)


def valid_model_name(name: str) -> bool:
    """Whether `name` may name an instance llama-server@NAME and its models.d/NAME.env."""
    return bool(MODEL_NAME.match(name)) and name != "current"


@dataclasses.dataclass(frozen=True)
class Entry:
    """One `KEY=value` of an env file and where it stands (line counted from 1)."""

    key: str
    value: str
    line: int


def parse_env(text: str, file: Path) -> dict[str, Entry]:
    """Parses an env file as systemd.exec(5) describes it; the last of several values of a key counts.

    :raises SettingError: a line that is neither blank, comment nor `KEY=value`, or an unclosed quote
    """
    entries: dict[str, Entry] = {}
    lines = text.split("\n")
    number = 0
    while number < len(lines):
        start = number + 1
        line = lines[number].strip()
        number += 1
        if not line or line[0] in "#;":
            continue
        while line.endswith("\\") and number < len(lines):
            line = line[:-1] + lines[number].strip()
            number += 1
        key, equals, raw = line.partition("=")
        key = key.strip()
        if not equals or not _KEY.match(key):
            raise SettingError(f"expected KEY=value, got {line[:60]!r}", file=file, line=start)
        try:
            value = _unquote(raw.strip())
        except ValueError as error:
            raise SettingError(str(error), file=file, line=start, key=key) from None
        if "\0" in value:
            raise SettingError("a NUL byte is not allowed", file=file, line=start, key=key)
        entries[key] = Entry(key, value, start)
    return entries


def _unquote(raw: str) -> str:
    """The value of what stands after `=`: outer quotes and backslash escapes resolved as systemd does."""
    if raw[:1] not in ("'", '"'):
        return re.sub(r"\\(.)", r"\1", raw)
    quote = raw[0]
    value: list[str] = []
    position = 1
    while position < len(raw):
        char = raw[position]
        if char == quote:
            if raw[position + 1 :].strip():
                raise ValueError("text after the closing quote")
            return "".join(value)
        if char == "\\" and quote == '"' and raw[position + 1 : position + 2] in ('"', "\\", "`", "$"):
            position += 1
            char = raw[position]
        value.append(char)
        position += 1
    raise ValueError("the quote is not closed")


def read_env(file: Path) -> dict[str, Entry]:
    """Reads an env file; an absent one is empty.

    :raises SettingError: it cannot be read or parsed
    """
    try:
        return parse_env(file.read_text(encoding="utf-8"), file)
    except FileNotFoundError:
        return {}
    except UnicodeDecodeError:
        raise SettingError("is not UTF-8 text", file=file) from None
    except OSError as error:
        raise SettingError(f"cannot be read: {error.strerror}", file=file) from None


# ---------------------------------------------------------------------------------------------------------
# What a value may be. A parser takes the text and returns the value; ValueError says what is allowed.

Parser = Callable[[str], Any]


def integer(low: int, high: int) -> Parser:
    """A whole number within bounds."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"[+-]?[0-9]{1,18}", text) or not low <= int(text) <= high:
            raise ValueError(f"must be a whole number from {low} to {high}, not {text[:40]!r}")
        return int(text)

    return parse


def number(low: float, high: float) -> Parser:
    """A decimal number within bounds."""

    def parse(text: str) -> float:
        if not re.fullmatch(r"[+-]?[0-9]{1,15}(\.[0-9]{0,15})?", text) or not low <= float(text) <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}, not {text[:40]!r}")
        return float(text)

    return parse


def boolean(text: str) -> bool:
    """1/0, true/false, yes/no, on/off."""
    word = text.lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"must be 1 or 0, not {text[:40]!r}")


def choice(*allowed: str) -> Parser:
    """One of some words."""

    def parse(text: str) -> str:
        if text not in allowed:
            raise ValueError(f"must be one of {', '.join(allowed)}, not {text[:40]!r}")
        return text

    return parse


def string(text: str) -> str:
    """Any text without control characters."""
    if any(ord(c) < 32 or ord(c) == 127 for c in text):
        raise ValueError("control characters are not allowed")
    return text


def absolute_path(text: str) -> Path:
    """An absolute path."""
    if not text.startswith("/") or any(ord(c) < 32 for c in text):
        raise ValueError(f"must be an absolute path, not {text[:60]!r}")
    return Path(text)


def address(text: str) -> str:
    """An IPv4 or IPv6 address (brackets optional), returned without brackets."""
    bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
    try:
        return str(ipaddress.ip_address("127.0.0.1" if bare == "localhost" else bare))
    except ValueError:
        raise ValueError(f"must be an IPv4 or IPv6 address, not {text[:60]!r}") from None


@dataclasses.dataclass(frozen=True)
class Setting:
    """One key of an env file: what it means, what it may be, and its default as it is written in the file."""

    key: str
    parse: Parser
    default: str
    doc: str
    unit: str = ""


def resolve(specs: Iterable[Setting], entries: Mapping[str, Entry], file: Path) -> dict[str, Any]:
    """The value of every setting, from the file or its default; an empty value means the default.

    :raises SettingError: the first bad value, named with file, line and what is allowed
    """
    values: dict[str, Any] = {}
    for spec in specs:
        entry = entries.get(spec.key)
        text = entry.value if entry and entry.value else spec.default
        try:
            values[spec.key] = spec.parse(text) if text else None
        except ValueError as error:
            line = entry.line if entry else None
            raise SettingError(str(error), file=file, line=line, key=spec.key) from None
    return values


# ---------------------------------------------------------------------------------------------------------
# /etc/llmsvc/config.env

SECRETS = {
    "LLAMA_API_KEY": "api-key",
    "POSTGRES_AUTH_PASSWORD": "database-password",
    "HF_TOKEN": "hf-token",
}
"""Keys that must not stand in an env file, and the credential that holds them instead."""

CONFIG: tuple[Setting, ...] = (
    Setting(
        "LLAMA_PROXY_HOST",
        address,
        "127.0.0.1",
        "Address on which clients reach the service. 0.0.0.0 or :: for all networks.",
    ),
    Setting(
        "LLAMA_PROXY_PORT",
        integer(1, 65535),
        "8001",
        "TCP port on which clients reach the service.",
    ),
    Setting(
        "LLAMA_PROXY_RATE_LIMIT",
        integer(1, 1000000),
        "60",
        "Requests that one user may send per window; more get 429 with the exact Retry-After.",
    ),
    Setting(
        "LLAMA_PROXY_RATE_WINDOW_SECONDS",
        integer(1, 86400),
        "60",
        "Length of that sliding window.",
        "seconds",
    ),
    Setting(
        "LLAMA_PROXY_QUEUE_PER_USER",
        integer(1, 100000),
        "64",
        "Requests of one user that may wait for the model at once; more get 429.",
    ),
    Setting(
        "LLAMA_PROXY_QUEUE_TOTAL",
        integer(1, 1000000),
        "1024",
        "Requests that may wait for the model in all; more get 503.",
    ),
    Setting(
        "LLAMA_PROXY_QUEUE_SECONDS",
        integer(1, 86400),
        "600",
        "Longest wait for the model's turn; then 503.",
        "seconds",
    ),
    Setting(
        "LLAMA_PROXY_HOLD_SECONDS",
        integer(0, 290),
        "120",
        "How long requests are held while no model is ready (switch, restart, crash); then 503.",
        "seconds",
    ),
    Setting(
        "LLAMA_PROXY_DRAIN_SECONDS",
        integer(1, 300),
        "30",
        "How long a stopping proxy, and a stopping model, let running requests finish.",
        "seconds",
    ),
    Setting(
        "LLAMA_PROXY_MAX_BODY_BYTES",
        integer(1024, 1073741824),
        "4194304",
        "Largest request body; larger ones get 413.",
        "bytes",
    ),
    Setting(
        "LLAMA_PROXY_BODY_SECONDS",
        integer(1, 3600),
        "30",
        "Time in which a request body must have arrived; then 408.",
        "seconds",
    ),
    Setting(
        "LLAMA_PROXY_MAX_TOKENS",
        integer(1, 10000000),
        "4096",
        "Tokens that an answer may have where the client does not say max_tokens.",
        "tokens",
    ),
    Setting(
        "LLAMA_PROXY_OTHER_MODEL",
        choice("refuse", "serve"),
        "refuse",
        "A request that names another model than the loaded one: 'refuse' it with 404, or 'serve' it "
        "with the loaded one.",
    ),
    Setting(
        "LLAMA_LEDGER_RETENTION_DAYS",
        integer(1, 36500),
        "90",
        "How long the rows of llama_requests are kept.",
        "days",
    ),
    Setting(
        "POSTGRES_AUTH_HOST",
        string,
        "/run/postgresql",
        "PostgreSQL: directory of the local socket (peer authentication, no password) or a host name.",
    ),
    Setting(
        "POSTGRES_AUTH_PORT",
        integer(1, 65535),
        "5432",
        "PostgreSQL: port, also of the local socket.",
    ),
    Setting(
        "POSTGRES_AUTH_DB",
        string,
        "llmsvc",
        "PostgreSQL: name of the database.",
    ),
    Setting(
        "POSTGRES_AUTH_USER",
        string,
        paths.PROXY_USER,
        "PostgreSQL: name of the role.",
    ),
    Setting(
        "POSTGRES_AUTH_SSLMODE",
        choice("disable", "prefer", "require", "verify-ca", "verify-full"),
        "prefer",
        "PostgreSQL: TLS over TCP, as libpq names it.",
    ),
    Setting(
        "LLAMA_MODELS_DIR",
        absolute_path,
        str(paths.MODELS),
        "Where model files are stored.",
    ),
)
_KNOWN = {setting.key for setting in CONFIG}


@dataclasses.dataclass(frozen=True)
class Config:
    """The values of config.env. Fields are the keys in lower case; units as CONFIG says."""

    llama_proxy_host: str
    llama_proxy_port: int
    llama_proxy_rate_limit: int
    llama_proxy_rate_window_seconds: int
    llama_proxy_queue_per_user: int
    llama_proxy_queue_total: int
    llama_proxy_queue_seconds: int
    llama_proxy_hold_seconds: int
    llama_proxy_drain_seconds: int
    llama_proxy_max_body_bytes: int
    llama_proxy_body_seconds: int
    llama_proxy_max_tokens: int
    llama_proxy_other_model: str
    llama_ledger_retention_days: int
    postgres_auth_host: str
    postgres_auth_port: int
    postgres_auth_db: str
    postgres_auth_user: str
    postgres_auth_sslmode: str
    llama_models_dir: Path

    @property
    def base_url(self) -> str:
        """The base URL for clients on this machine, ending in /v1."""
        host = self.llama_proxy_host
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(host, f"[{host}]" if ":" in host else host)
        return f"http://{host}:{self.llama_proxy_port}/v1"


def load(file: Path = paths.CONFIG_ENV) -> Config:
    """Reads config.env; an absent file means all defaults.

    :raises SettingError: an unknown key, a secret, or a bad value, with file and line
    """
    return parse(read_env(file), file)


def parse(entries: Mapping[str, Entry], file: Path) -> Config:
    """The configuration that the entries of a config.env make; see load()."""
    for entry in entries.values():
        refuse_secret(entry, file)
        if entry.key not in _KNOWN:
            raise SettingError(
                "unknown setting",
                file=file,
                line=entry.line,
                key=entry.key,
                hint=closest_hint(entry.key, _KNOWN),
            )
    return Config(**{key.lower(): value for key, value in resolve(CONFIG, entries, file).items()})


def refuse_secret(entry: Entry, file: Path) -> None:
    """Raises SettingError if the key is one of SECRETS; the value is never part of the message."""
    if entry.key in SECRETS:
        raise SettingError(
            "a secret does not belong into this file, which everybody can read",
            file=file,
            line=entry.line,
            key=entry.key,
            hint=f"remove the line; put the value into {paths.CREDENTIALS / SECRETS[entry.key]} (mode 0600)",
        )


def closest_hint(word: str, known: Iterable[str]) -> str | None:
    """`did you mean …?` where a known word is close."""
    import difflib

    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else None


def set_values(text: str, values: Mapping[str, str]) -> str:
    """The text of an env file with some values set: in place of the last line that sets or shows the key."""
    lines = text.split("\n")
    for key, value in values.items():
        setting = re.compile(rf"\s*{re.escape(key)}\s*=")
        shown = re.compile(rf"\s*[#;]\s*{re.escape(key)}\s*=")
        found = [i for i, line in enumerate(lines) if setting.match(line)] or [
            i for i, line in enumerate(lines) if shown.match(line)
        ]
        if found:
            lines[found[-1]] = f"{key}={value}"
        else:
            end = len(lines) - 1 if lines[-1] == "" else len(lines)
            lines.insert(end, f"{key}={value}")
    return "\n".join(lines)
