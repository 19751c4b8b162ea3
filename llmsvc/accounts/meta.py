"""Notices a wrong pepper, with which every key would silently be unknown.

The database holds a fingerprint of the pepper that its keys were made with.
"""

from __future__ import annotations

import hmac

from llmsvc import paths
from llmsvc.database import Connection
from llmsvc.errors import SettingError

FINGERPRINT_QUERY = "SELECT value FROM llama_meta WHERE key = 'pepper_fingerprint'"


def fingerprint(pepper: bytes) -> str:
    """32 hex digits that tell nothing about the pepper."""
    return hmac.digest(pepper, b"llmsvc: fingerprint of the pepper", "sha256")[:16].hex()


def compare(stored: str | None, pepper: bytes) -> None:
    """Raises SettingError if the fingerprint that is stored belongs to another pepper.

    :param stored: the row of FINGERPRINT_QUERY; None where no key was ever made
    """
    if stored is not None and not hmac.compare_digest(stored, fingerprint(pepper)):
        raise SettingError(
            "this is not the pepper that the API keys in the database were made with",
            file=paths.PEPPER,
            hint="restore the pepper that belongs to this database from your backup",
        )


def bind_pepper(connection: Connection, pepper: bytes) -> None:
    """Ties the database to the pepper where it is not yet tied to one.

    :raises SettingError: it is tied to another one
    """
    connection.execute(
        "INSERT INTO llama_meta (key, value) VALUES ('pepper_fingerprint', %s) ON CONFLICT DO NOTHING",
        [fingerprint(pepper)],
    )
    row = connection.execute(FINGERPRINT_QUERY).fetchone()
    compare(row[0] if row else None, pepper)
