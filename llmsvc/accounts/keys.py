"""API keys: how they look, how a typo shows without any look-up, and what of them is stored.

A key is `sk-llm-`, 43 random base62 characters (256 bits) and 6 base62 characters of the CRC32 over what
stands before. Stored are only HMAC-SHA256(pepper, key) and a short prefix that people can tell keys apart by.
"""

from __future__ import annotations

import hmac
import re
import secrets
import string
import zlib
from pathlib import Path

from llmsvc.errors import DeniedError, SettingError

PREFIX = "sk-llm-"
_ALPHABET = string.digits + string.ascii_uppercase + string.ascii_lowercase
_RANDOM = 43
_CHECK = 6
LENGTH = len(PREFIX) + _RANDOM + _CHECK
DISPLAY_LENGTH = len(PREFIX) + 6
_KEY = re.compile(rb"sk-llm-[0-9A-Za-z]{49}\Z")
_PEPPER = re.compile(r"[0-9a-fA-F]{64}\n?\Z")


def generate() -> str:
    """A new key."""
    body = PREFIX + "".join(secrets.choice(_ALPHABET) for _ in range(_RANDOM))
    return body + _checksum(body.encode())


def well_formed(key: str | bytes) -> bool:
    """Whether the form and the checksum are right; says nothing about whether the key is known."""
    try:
        raw = key.encode("ascii") if isinstance(key, str) else key
    except UnicodeEncodeError:
        return False
    return _KEY.match(raw) is not None and raw[-_CHECK:] == _checksum(raw[:-_CHECK]).encode()


def digest(pepper: bytes, key: str | bytes) -> bytes:
    """The 32 bytes that are stored for a key."""
    return hmac.digest(pepper, key.encode() if isinstance(key, str) else key, "sha256")


def display_prefix(key: str) -> str:
    """The part of a key that may be shown: `sk-llm-` and 6 of its random characters."""
    return key[:DISPLAY_LENGTH]


def generate_pepper() -> str:
    """The text of a new pepper file: 64 hex digits and a newline."""
    return secrets.token_hex(32) + "\n"


def read_pepper(path: Path) -> bytes:
    """The 32 bytes of a pepper file.

    :raises SettingError: the file is missing or does not hold 64 hex digits
    :raises DeniedError: we may not read it
    """
    try:
        text = path.read_text("ascii")
    except FileNotFoundError:
        raise SettingError(
            "the pepper is missing; without it no API key can be checked",
            file=path,
            hint="restore it from your backup, or run 'sudo llmsvc install' on a machine without keys",
        ) from None
    except PermissionError:
        raise DeniedError(f"{path} may not be read", hint="run it again with sudo") from None
    except UnicodeDecodeError:
        text = ""
    if not _PEPPER.match(text):
        raise SettingError(
            "must hold 64 hex digits and a newline", file=path, hint="restore it from your backup"
        )
    return bytes.fromhex(text)


def _checksum(body: bytes) -> str:
    number = zlib.crc32(body)
    digits = []
    for _ in range(_CHECK):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
