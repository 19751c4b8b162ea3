"""Finds our database among the PostgreSQL clusters of this machine.

After an upgrade of the distribution it may be on another port; and a cluster that was here before us may have
one of its own.
"""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from llmsvc.config import Config
from llmsvc.database import provision
from llmsvc.errors import Error
from llmsvc.process import PATH, run


@dataclasses.dataclass(frozen=True)
class Cluster:
    """A line of Debian's pg_lsclusters."""

    version: str
    name: str
    port: int
    status: str
    """online, down, down,binaries_missing, ..."""

    @property
    def online(self) -> bool:
        return self.status.split(",")[0] == "online"


def known() -> list[Cluster]:
    """Every cluster of this machine; none where the distribution has no pg_lsclusters."""
    if not shutil.which("pg_lsclusters", path=PATH):
        return []
    lines = run(["pg_lsclusters", "--no-header"]).stdout.splitlines()
    fields = [line.split() for line in lines if line.strip()]
    return [Cluster(version, name, int(port), status) for version, name, port, status, *_ in fields]


def port(config: Config, *, expected: bool) -> int:
    """The port of the cluster to use: the configured one unless only another one will do.

    :param expected: our database was made before, and must be somewhere
    :raises Error: it is in a cluster that does not run, or that does not let us look
    """
    configured = config.postgres_auth_port
    if Path(config.postgres_auth_host, f".s.PGSQL.{configured}").exists() and (
        not expected or _may_have_database(config, configured)
    ):
        return configured
    found = known()
    online = [cluster for cluster in found if cluster.online]
    with_it = [cluster for cluster in online if _may_have_database(config, cluster.port)]
    if with_it:
        return with_it[0].port
    if not online:
        # PostgreSQL is stopped, or not there yet
        return configured
    if expected and (down := [cluster for cluster in found if not cluster.online]):
        old = down[0]
        # of a distribution upgrade; the new release does not have the package any more
        lacking = (
            f"apt-get install postgresql-{old.version} (from the release before, if this one has none); "
            if "binaries_missing" in old.status
            else ""
        )
        raise Error(
            f"the database {config.postgres_auth_db} is in no running PostgreSQL; "
            f"the cluster {old.version} {old.name} is {old.status}",
            hint=f"{lacking}pg_ctlcluster {old.version} {old.name} start; then run this again. "
            "docs/upgrading.md tells how its data get into a newer version",
        )
    if expected:
        for cluster in online:
            _has_database(config, cluster.port)  # one that cannot be asked may have it: its error
        ports = ", ".join(f"{cluster.version} {cluster.name} on port {cluster.port}" for cluster in online)
        raise Error(
            f"the database {config.postgres_auth_db}, which was made here, is in no PostgreSQL of this "
            f"machine any more ({ports})",
            hint="bring the cluster back that had it; or begin with an empty one, which 'llmsvc db restore' "
            "fills from a backup: run this again with --database "
            f"'postgresql:///{config.postgres_auth_db}?port={online[0].port}'",
        )
    return configured if any(cluster.port == configured for cluster in online) else online[0].port


def gone() -> bool:
    """Whether PostgreSQL was taken off this machine, and with it all that it held."""
    if not shutil.which("psql", path=PATH):
        return True
    return bool(shutil.which("pg_lsclusters", path=PATH)) and not known()


def _may_have_database(config: Config, port: int) -> bool:
    try:
        return _has_database(config, port)
    except Error:
        return False


def _has_database(config: Config, port: int) -> bool:
    return provision.database_exists(dataclasses.replace(config, postgres_auth_port=port))
