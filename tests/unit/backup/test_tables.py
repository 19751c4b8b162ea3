"""How PostgreSQL's programs are told where the database is."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from llmsvc import config, paths
from llmsvc.backup import tables


def test_a_password_goes_by_a_file_of_root_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(paths, "DATABASE_PASSWORD", tmp_path / "database-password")
    monkeypatch.delenv("CREDENTIALS_DIRECTORY", raising=False)
    paths.DATABASE_PASSWORD.write_text("se:cr\\et\n")
    local = config.parse({}, tmp_path)
    elsewhere = dataclasses.replace(
        local, postgres_auth_host="db.example.org", postgres_auth_sslmode="verify-full"
    )
    with tables._environment(elsewhere) as told:
        file = Path(told["PGPASSFILE"])
        assert file.stat().st_mode & 0o7777 == 0o600
        assert file.read_text() == "*:*:*:*:se\\:cr\\\\et\n"
        assert told["PGSSLROOTCERT"] == str(elsewhere.postgres_auth_sslrootcert)
        assert not any("se:cr" in word for word in (*told.values(), *tables._where(elsewhere)))
    assert not file.exists()
    with tables._environment(local) as told:
        assert "PGPASSFILE" not in told
