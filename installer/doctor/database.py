"""PostgreSQL: answering, the right one, with our tables, and with the pepper of its keys."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg

from installer import clusters
from installer.doctor import pepper as pepper_of
from installer.doctor.finding import INSTALL, Finding, error, warning
from installer.doctor.host import Host
from llmsvc import paths
from llmsvc.accounts import keys, local, meta
from llmsvc.config import Config
from llmsvc.database import Connection, connect, provision, schema
from llmsvc.errors import Error, SettingError
from llmsvc.systemd import manager

_SOCKET = re.compile(r"\.s\.PGSQL\.([0-9]+)\Z")
_STILL = (
    "requests go on with the keys that the proxy knows; no row is lost, but users and keys cannot be changed"
)


def check(host: Host) -> Iterator[Finding]:
    """What the database has, if it answers; else why not."""
    if not host.config.llama_proxy_enabled:
        return
    if not host.config.local_database and not host.config.verifies_database:
        yield warning(
            "database-tls",
            f"POSTGRES_AUTH_SSLMODE is {host.config.postgres_auth_sslmode}: nobody checks who "
            f"{host.config.postgres_auth_host} is",
            "whoever can redirect that name gets the password, and decides which keys are valid",
            f"set POSTGRES_AUTH_SSLMODE=verify-full in {paths.CONFIG_ENV}; {INSTALL}",
        )
    try:
        connection = connect(host.config)
    except Error as problem:
        yield from _unreachable(host.config, problem)
        return
    with connection:
        yield from _encoding(connection, host.config.postgres_auth_port)
        if schema.applied(connection) or connection.info.parameter_status("server_encoding") == "UTF8":
            yield from _tables(connection)
        if schema.applied(connection):
            yield from _pepper(connection)
    if host.told_by_proxy.get("database") is False and host.unit(manager.PROXY, "User") in (
        "",
        paths.PROXY_USER,
    ):
        yield error(
            "database-proxy",
            f"the proxy does not reach PostgreSQL, which answers here{host.last_words(manager.PROXY)}",
            _STILL,
            host.mend(manager.PROXY, f"sudo systemctl restart {manager.PROXY}"),
        )


def _unreachable(config: Config, problem: Error) -> Iterator[Finding]:
    for port in _other_ports(config):
        other = dataclasses.replace(config, postgres_auth_port=port)
        try:
            found = provision.database_exists(other)
        except Error:
            continue
        if found:
            yield error(
                "database-cluster",
                f"the database {config.postgres_auth_db} is in the PostgreSQL on port {port}, "
                f"but POSTGRES_AUTH_PORT in {paths.CONFIG_ENV} is {config.postgres_auth_port}",
                _STILL,
                INSTALL,
            )
            return
    yield error("database", problem.message, _STILL, _answering(config, problem))


def _answering(config: Config, problem: Error) -> str:
    """What makes PostgreSQL answer again: first of all that it runs."""
    for cluster in clusters.known() if config.local_database else ():
        ends = "shutting down" in problem.message
        if cluster.port == config.postgres_auth_port and (ends or cluster.status == "down"):
            return f"sudo systemctl restart postgresql@{cluster.version}-{cluster.name}"
    return problem.hint or INSTALL


def _other_ports(config: Config) -> list[int]:
    """Ports of the other clusters whose socket is where ours should be."""
    if not config.postgres_auth_host.startswith("/"):
        return []
    found = (_SOCKET.match(path.name) for path in Path(config.postgres_auth_host).glob(".s.PGSQL.*"))
    return sorted(int(match[1]) for match in found if match and int(match[1]) != config.postgres_auth_port)


def _made_anew(name: str, port: int, *, filled: bool) -> str:
    """Has a database made again, in UTF8; the old one stays, under another name."""
    units = f"{manager.SOCKET} {manager.PROXY}"
    backup = f"/root/{name}-not-utf8.tar"
    rename = f'ALTER DATABASE "{name}" RENAME TO "{name}_not_utf8"'
    aside = f"sudo systemctl stop {units} && sudo -u postgres psql -p {port} -c '{rename}' && "
    if not filled:
        return f"{aside}{INSTALL}"
    return (
        f"sudo llmsvc db backup {backup} && {aside}sudo llmsvc db init && "
        f"sudo llmsvc db restore {backup} --force && sudo systemctl start {units}"
    )


def _encoding(connection: Connection, port: int) -> Iterator[Finding]:
    row = connection.execute(
        "SELECT pg_encoding_to_char(encoding), pg_is_in_recovery(), datname FROM pg_database"
        " WHERE datname = current_database()"
    ).fetchone()
    encoding, standby, name = row or ("", False, "")
    if encoding != "UTF8":
        yield error(
            "database-encoding",
            f"the database is {encoding}, not UTF8",
            "text that is no ASCII is stored unchecked, and other programs read it as bytes",
            _made_anew(name, port, filled=bool(schema.applied(connection))),
        )
    if standby:
        yield error(
            "database-standby",
            "the database is a standby, which cannot be written to",
            _STILL,
            "point POSTGRES_AUTH_HOST and _PORT to the primary, or promote this one",
        )


def _tables(connection: Connection) -> Iterator[Finding]:
    try:
        pending = schema.pending(connection)
    except Error as newer:
        yield error("database-newer", newer.message, "this version cannot work with it", newer.hint or "")
        return
    if pending:
        yield error(
            "migrations",
            f"the database lacks {', '.join(pending)}",
            "commands refuse to work with it, and rows may not be written",
            "sudo llmsvc db migrate",
        )


def _pepper(connection: Connection) -> Iterator[Finding]:
    try:
        pepper = keys.read_pepper(paths.PEPPER)
    except Error:
        return  # credentials.py tells
    row = connection.execute(meta.FINGERPRINT_QUERY).fetchone()
    try:
        meta.compare(row[0] if row else None, pepper)
    except SettingError as wrong:
        yield error(
            "pepper-wrong",
            wrong.message,
            "once the proxy starts again, no API key works",
            pepper_of.back(row[0] if row else None),
        )
        return
    try:
        works = local.is_current(connection, pepper, paths.LOCAL_KEY)
    except psycopg.Error:
        return  # the tables are not there
    if paths.LOCAL_KEY.exists() and not works:
        yield warning(
            "local-key-wrong",
            f"the key in {paths.LOCAL_KEY} does not work",
            "'llmsvc ask' and the check of an upgrade fail",
            INSTALL,
        )
