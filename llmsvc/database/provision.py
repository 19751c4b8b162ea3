"""Creates our role and database in the local cluster, as its superuser `postgres`."""

from __future__ import annotations

import dataclasses

from llmsvc import process
from llmsvc.config import Config
from llmsvc.errors import UnavailableError

SUPERUSER = "postgres"
_MARK = "made by llmsvc install"
"""Comment on what we made: it tells where the manifest is lost."""


@dataclasses.dataclass(frozen=True)
class Place:
    """A local cluster: the directory of its socket, and its port."""

    host: str
    port: int

    @classmethod
    def of(cls, config: Config) -> Place:
        """The one that the settings name."""
        return cls(config.postgres_auth_host, config.postgres_auth_port)


def role_statement(config: Config) -> str:
    """The SQL that creates the role. It has no password: it logs in by peer authentication."""
    name = _identifier(config.postgres_auth_user)
    return f"CREATE ROLE {name} LOGIN;\nCOMMENT ON ROLE {name} IS '{_MARK}'"


def database_statement(config: Config) -> str:
    """The SQL that creates the database, as UTF8 also in a cluster whose default is SQL_ASCII."""
    name, owner = _identifier(config.postgres_auth_db), _identifier(config.postgres_auth_user)
    return (
        f"CREATE DATABASE {name} OWNER {owner} ENCODING 'UTF8' TEMPLATE template0 LOCALE 'C';\n"
        f"COMMENT ON DATABASE {name} IS '{_MARK}'"
    )


def role_exists(config: Config) -> bool:
    """Whether the cluster has the role. Needs root."""
    return bool(
        _psql(Place.of(config), "SELECT 1 FROM pg_roles WHERE rolname = :'name'", config.postgres_auth_user)
    )


def database_exists(config: Config) -> bool:
    """Whether the cluster has the database. Needs root."""
    return bool(
        _psql(Place.of(config), "SELECT 1 FROM pg_database WHERE datname = :'name'", config.postgres_auth_db)
    )


def create_role(config: Config) -> bool:
    """Creates the role unless it exists; returns whether it did. Needs root."""
    if role_exists(config):
        return False
    _psql(Place.of(config), role_statement(config))
    return True


def create_database(config: Config) -> bool:
    """Creates the database unless it exists; returns whether it did. Needs root."""
    if database_exists(config):
        return False
    _psql(Place.of(config), database_statement(config))
    return True


def made_here(config: Config) -> dict[str, str]:
    """What of `role` and `database` is there and was made by create_…(), by its comment. Needs root."""
    role = "SELECT shobj_description(oid, 'pg_authid') FROM pg_authid WHERE rolname = :'name'"
    database = "SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = :'name'"
    asked = {"role": (role, config.postgres_auth_user), "database": (database, config.postgres_auth_db)}
    return {
        kind: name for kind, (query, name) in asked.items() if _psql(Place.of(config), query, name) == _MARK
    }


def drop_role(place: Place, name: str) -> None:
    """Removes a role, if it is there, that owns nothing outside of our database. Needs root."""
    _psql(place, f"DROP ROLE IF EXISTS {_identifier(name)}")


def drop_database(place: Place, name: str) -> None:
    """Removes a database, if it is there, whoever is connected to it. Needs root."""
    _psql(place, f"DROP DATABASE IF EXISTS {_identifier(name)} WITH (FORCE)")


def _psql(place: Place, sql: str, name: str = "") -> str:
    """What psql prints for one statement, in which :'name' stands for `name`."""
    argv = ["runuser", "-u", SUPERUSER, "--", "psql", "--no-psqlrc", "--tuples-only", "--no-align", "--quiet"]
    argv += [f"--host={place.host}", f"--port={place.port}"]
    argv += [f"--username={SUPERUSER}", "--no-password", "--dbname=postgres"]
    argv += ["--set=ON_ERROR_STOP=1", f"--set=name={name}"]
    try:
        # psql replaces variables in its standard input only
        return process.run(argv, stdin=sql).stdout.strip()
    except process.ProcessError as failed:
        # before it may stand that our directory is none for `postgres`, and after it advice
        said = [line for line in failed.output.splitlines() if "could not change directory" not in line]
        reason = (said or ["no answer"])[0].removeprefix("psql: error: ")
        hint = "see 'systemctl status postgresql' and 'pg_lsclusters'"
        if "No such file" in reason:
            hint += (
                "; a socket in another directory: --database 'postgresql:///NAME?host=DIRECTORY&port=PORT'"
            )
        elif "authentication failed" in reason or "no password supplied" in reason:
            hint = f"pg_hba.conf must let {SUPERUSER} and the proxy's role in by peer authentication"
        raise UnavailableError(
            f"PostgreSQL at {place.host}, port {place.port}, refuses its superuser {SUPERUSER}: {reason}",
            hint=hint,
        ) from None


def _identifier(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'
