"""Which of a machine's PostgreSQL clusters is ours, after an upgrade of the distribution too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from installer import clusters
from installer.clusters import Cluster
from llmsvc import config
from llmsvc.errors import Error

OLD = Cluster("15", "main", 5432, "online")
NEW = Cluster("17", "main", 5433, "online")


class Host:
    """A machine's clusters, and which of them have our database."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.clusters: list[Cluster] = []
        self.databases: set[int] = set()

    def runs(self, *found: Cluster, databases: set[int]) -> None:
        self.clusters, self.databases = list(found), databases
        for cluster in found:
            if cluster.online:
                (self.directory / f".s.PGSQL.{cluster.port}").touch()

    def port(self, *, expected: bool, configured: int = 5432) -> int:
        settings = dataclasses.replace(
            config.parse({}, Path("x")),
            postgres_auth_host=str(self.directory),
            postgres_auth_port=configured,
        )
        return clusters.port(settings, expected=expected)


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Host:
    host = Host(tmp_path)
    monkeypatch.setattr(clusters, "known", lambda: host.clusters)
    monkeypatch.setattr(clusters, "_has_database", lambda settings, port: port in host.databases)
    return host


def test_the_configured_one_where_it_runs(host: Host) -> None:
    host.runs(OLD, NEW, databases={5432})
    assert host.port(expected=True) == 5432
    assert host.port(expected=False) == 5432
    assert host.port(expected=False, configured=5433) == 5433


def test_a_machine_without_any_or_with_a_stopped_one_keeps_the_setting(host: Host) -> None:
    assert host.port(expected=False) == 5432
    host.runs(dataclasses.replace(OLD, status="down"), databases=set())
    assert host.port(expected=True) == 5432


def test_a_first_installation_takes_the_only_cluster_wherever_it_is(host: Host) -> None:
    host.runs(NEW, databases=set())
    assert host.port(expected=False) == 5433


def test_a_database_that_moved_is_followed(host: Host) -> None:
    host.runs(dataclasses.replace(OLD, status="down"), NEW, databases={5433})
    assert host.port(expected=True) == 5433
    # pg_upgradecluster gives the new one the old port, and the old one another
    host.runs(dataclasses.replace(NEW, port=5432), dataclasses.replace(OLD, port=5433), databases={5433})
    assert host.port(expected=True) == 5433


@pytest.mark.parametrize(
    ("status", "hint"),
    [
        ("down", "pg_ctlcluster 15 main start; then"),
        ("down,binaries_missing", "has none); pg_ctlcluster 15 main start"),
    ],
)
def test_no_empty_database_is_made_where_the_old_one_only_does_not_run(
    host: Host, status: str, hint: str
) -> None:
    host.runs(dataclasses.replace(OLD, status=status), NEW, databases=set())
    with pytest.raises(Error, match="the cluster 15 main is down") as caught:
        host.port(expected=True)
    assert hint in (caught.value.hint or "")


def test_no_empty_database_is_made_where_the_old_one_is_gone(host: Host) -> None:
    host.runs(NEW, databases=set())
    with pytest.raises(Error, match="in no PostgreSQL of this machine") as caught:
        host.port(expected=True)
    assert "--database 'postgresql:///llmsvc?port=5433'" in (caught.value.hint or "")


def test_debians_list_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (
        "15  main    5432 down,binaries_missing <unknown> /var/lib/postgresql/15/main /var/log/a.log\n"
        "17  main    5433 online                postgres  /var/lib/postgresql/17/main /var/log/b.log\n"
    )
    done = type("Done", (), {"stdout": text})
    monkeypatch.setattr(clusters, "run", lambda argv: done)
    monkeypatch.setattr(clusters.shutil, "which", lambda name, path: name)
    assert clusters.known() == [dataclasses.replace(OLD, status="down,binaries_missing"), NEW]


def test_a_cluster_that_does_not_let_us_look_is_not_said_to_lack_it(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(settings: config.Config, port: int) -> bool:
        raise Error("PostgreSQL refuses")

    host.runs(OLD, databases={5432})
    monkeypatch.setattr(clusters, "_has_database", refused)
    with pytest.raises(Error, match="PostgreSQL refuses"):
        host.port(expected=True)
    assert host.port(expected=False) == 5432


def test_postgresql_is_gone_with_its_programs_or_its_last_cluster(
    host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    programs = {"psql", "pg_lsclusters"}
    monkeypatch.setattr(clusters.shutil, "which", lambda name, path: name if name in programs else None)
    assert clusters.gone()
    host.runs(dataclasses.replace(OLD, status="down"), databases=set())
    assert not clusters.gone()
    programs.remove("psql")
    assert clusters.gone()
    programs.clear()
    programs.add("psql")  # as on a distribution without pg_lsclusters
    host.runs(databases=set())
    assert not clusters.gone()
