"""The secrets: there, well-formed, and for root alone; and the users that may not read them."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Iterator

import psycopg

from installer.doctor import pepper
from installer.doctor.finding import INSTALL, Finding, error
from installer.doctor.host import Host
from llmsvc import paths
from llmsvc.accounts import keys, meta
from llmsvc.database import connect
from llmsvc.errors import Error


def check(host: Host) -> Iterator[Finding]:
    """Modes and owners, and the form of pepper and key."""
    if not paths.CREDENTIALS.is_dir():
        yield error(
            "credentials",
            f"there is no {paths.CREDENTIALS}",
            "neither proxy nor model can start again without what is in it",
            _all_back(host),
        )
        return
    for file in (paths.CREDENTIALS, *sorted(paths.CREDENTIALS.iterdir())):
        try:
            status = file.stat()
        except FileNotFoundError:
            yield error(
                "credential-missing",
                f"{file} is a link to {file.readlink()}, which is not there",
                "a service that needs it cannot start again",
                f"put the file there, or sudo rm {file}",
            )
            continue
        if status.st_uid != 0 or status.st_mode & 0o077:
            mode = 700 if file.is_dir() else 600
            yield error(
                "credential-open",
                f"{file} is not for root alone (mode {status.st_mode & 0o7777:o}, uid {status.st_uid})",
                "others may read a secret of this service",
                f"sudo chown root:root {file} && sudo chmod {mode} {file}",
            )
    if not host.config.llama_proxy_enabled:
        if not paths.API_KEY.exists() or not paths.API_KEY.read_bytes().strip():
            yield error(
                "api-key",
                f"the one key is missing: {paths.API_KEY}",
                "the model cannot start again, and nobody can use it",
                INSTALL,
            )
        return
    try:
        keys.read_pepper(paths.PEPPER)
    except Error as wrong:
        yield error(
            "pepper",
            wrong.message,
            "the proxy cannot start again, and without this pepper no API key works",
            pepper.back(_fingerprint(host)),
        )
        return  # the key is worth nothing without it
    if not paths.LOCAL_KEY.exists() or not keys.well_formed(paths.LOCAL_KEY.read_bytes().strip()):
        yield error(
            "local-key",
            f"this machine's own key is missing: {paths.LOCAL_KEY}",
            "'llmsvc ask' and the check of an upgrade do not work",
            INSTALL,
        )


def _all_back(host: Host) -> str:
    """How the directory comes back; what is in it beside the pepper, install makes."""
    if not host.config.llama_proxy_enabled:
        return INSTALL
    back = pepper.back(_fingerprint(host))
    return f"{back} && {INSTALL}" if back.startswith("sudo ") else f"{back}; then {INSTALL}"


def _fingerprint(host: Host) -> str | None:
    """Which pepper the database was made with; None where it does not tell."""
    try:
        with connect(host.config) as connection:
            row = connection.execute(meta.FINGERPRINT_QUERY).fetchone()
    except (Error, psycopg.Error):
        return None
    return row[0] if row else None


def users(host: Host) -> Iterator[Finding]:
    """The users that the services run as."""
    for name in (paths.PROXY_USER, paths.BACKEND_USER):
        try:
            pwd.getpwnam(name)
        except KeyError:
            yield error("user-missing", f"there is no user {name}", "its service cannot start again", INSTALL)
    try:
        grp.getgrnam(paths.ADMIN_GROUP)
    except KeyError:
        yield error(
            "group-missing", f"there is no group {paths.ADMIN_GROUP}", "nobody but root can switch", INSTALL
        )
