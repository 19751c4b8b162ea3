"""The syntax of our env files, and what a value in one may be. The only place for both.

An env file is what systemd calls an EnvironmentFile: `KEY=value`, comments after `#` or `;` at the start of a
line, values bare or in quotes. The services read it themselves rather than through the environment: a bad
value can then be named with file and line, and nothing of it shows in /proc.
"""

from __future__ import annotations

import dataclasses
import difflib
import ipaddress
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from llmsvc.errors import SettingError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_WEB_ADDRESS = re.compile(
    r"https?://(\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9.-]+)(:[0-9]{1,5})?(/[A-Za-z0-9._~/-]*)?\Z"
)
_ORIGIN = re.compile(
    r"[a-z][a-z0-9+.-]*://[a-z0-9._-]+(:[0-9]{1,5})?\Z|[a-z][a-z0-9+.-]*://\[[0-9a-f:.]+\](:[0-9]{1,5})?\Z"
)
_KEY = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclasses.dataclass(frozen=True)
class Entry:
    """One `KEY=value` of an env file and where it stands (line counted from 1)."""

    key: str
    value: str
    line: int


def parse(text: str, file: Path) -> dict[str, Entry]:
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


def read(file: Path) -> dict[str, Entry]:
    """Reads an env file; an absent one is empty.

    :raises SettingError: it cannot be read or parsed
    """
    return parse(text(file) or "", file)


def text(file: Path) -> str | None:
    """The text of an env file; None where there is none.

    :raises SettingError: it cannot be read
    """
    try:
        return file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return None
    except UnicodeDecodeError:
        raise SettingError("is not UTF-8 text", file=file) from None
    except OSError as error:
        raise SettingError(f"cannot be read: {error.strerror}", file=file) from None


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


# ---------------------------------------------------------------------------------------------------------
# What a value may be. A parser takes the text and returns the value; ValueError says what is allowed.

Parser = Callable[[str], Any]


def integer(low: int, high: int) -> Parser:
    """A whole number within bounds."""

    def parse(text: str) -> int:
        if not re.fullmatch(r"-?(0|[1-9][0-9]{0,17})", text) or not low <= int(text) <= high:
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
        if "%" in bare:
            raise ValueError  # a zone, as in fe80::1%eth0, which the generator does not take
        return str(ipaddress.ip_address("127.0.0.1" if bare == "localhost" else bare))
    except ValueError:
        raise ValueError(f"must be an IPv4 or IPv6 address, not {text[:60]!r}") from None


def networks(*words: str) -> Parser:
    """Addresses and networks (CIDR), parted by commas or spaces; returned as a tuple.

    :param words: what else may stand in it, returned as it is
    """

    def parse(text: str) -> tuple[Network | str, ...]:
        return tuple(item if item in words else _network(item) for item in _items(text))

    return parse


def _network(text: str) -> Network:
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        raise ValueError(f"must be addresses or networks such as 10.0.0.0/8: {error}") from None


def origins(text: str) -> tuple[str, ...]:
    """Origins of web pages, parted by commas or spaces, or `*` for all; returned in lower case."""
    found = tuple(item.lower() for item in _items(text))
    for item in found:
        if item != "*" and not _ORIGIN.match(item):
            raise ValueError(f"must be origins such as https://chat.example.org, or *, not {item[:60]!r}")
    return found


def web_address(text: str) -> str:
    """An http or https URL of a site, with or without a path; returned without `/` or `/v1` at its end."""
    if not _WEB_ADDRESS.match(text):
        raise ValueError(f"must be a URL such as https://llm.example.org, not {text[:60]!r}")
    return text.rstrip("/").removesuffix("/v1").rstrip("/")


def _items(text: str) -> list[str]:
    return [item for item in re.split(r"[\s,]+", text) if item]


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


def closest_hint(word: str, known: Iterable[str]) -> str | None:
    """`did you mean …?` where a known word is close."""
    close = difflib.get_close_matches(word, list(known), n=1)
    return f"did you mean {close[0]}?" if close else None
