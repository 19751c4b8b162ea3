"""Certificate and key: a bad pair is one clear line, and nothing older than TLS 1.2 is spoken."""

from __future__ import annotations

import dataclasses
import ssl
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmsvc import config
from llmsvc.errors import SettingError
from llmsvc.proxy import tls
from tests import certificates

Pair = tuple[Path | None, Path | None]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return certificates.make(tmp_path_factory.mktemp("tls"))


def context(cert: Path | None, key: Path | None, credentials: Path | None = None) -> ssl.SSLContext | None:
    plain = config.load(Path("/nonexistent"))
    settings = dataclasses.replace(plain, llama_proxy_tls_cert=cert, llama_proxy_tls_key=key)
    return tls.context(settings, str(credentials) if credentials else None)


def test_none_without_settings() -> None:
    assert context(None, None) is None


def test_modern_protocols_alone(pair: tuple[Path, Path]) -> None:
    made = context(*pair)
    assert made is not None
    assert made.minimum_version == ssl.TLSVersion.TLSv1_2
    assert all(
        ("ECDHE" in c["name"] and "CBC" not in c["description"]) or c["protocol"] == "TLSv1.3"
        for c in made.get_ciphers()
    )


def test_credentials_come_before_the_files(pair: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "tls-cert").write_bytes(pair[0].read_bytes())
    (tmp_path / "tls-key").write_bytes(pair[1].read_bytes())
    assert context(Path("/nowhere/cert"), Path("/nowhere/key"), tmp_path) is not None


def encrypted(pair: tuple[Path, Path], tmp_path: Path) -> Pair:
    key = tmp_path / "encrypted.key"
    command = ["openssl", "pkey", "-in", pair[1], "-out", key, "-aes128", "-passout", "pass:secret"]
    subprocess.run(command, check=True)
    return pair[0], key


def of_another(pair: tuple[Path, Path], tmp_path: Path) -> Pair:
    return pair[0], certificates.make(tmp_path)[1]


def garbage(pair: tuple[Path, Path], tmp_path: Path) -> Pair:
    (tmp_path / "garbage").write_text("this is no key")
    return pair[0], tmp_path / "garbage"


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda pair, _: (pair[0], None), "LLAMA_PROXY_TLS_KEY: is missing"),
        (lambda pair, _: (None, pair[1]), "LLAMA_PROXY_TLS_CERT: is missing"),
        (lambda pair, _: (Path("/nowhere"), pair[1]), "LLAMA_PROXY_TLS_CERT: /nowhere does not exist"),
        (lambda pair, _: (pair[1], pair[1]), "holds no certificate"),
        (lambda pair, _: (pair[0], pair[0]), "holds no private key"),
        (garbage, "holds no private key"),
        (of_another, "is not the key of the certificate"),
        (encrypted, "has a password"),
    ],
)
def test_bad_pair_is_one_line(
    pair: tuple[Path, Path], tmp_path: Path, made: Callable[[tuple[Path, Path], Path], Pair], told: str
) -> None:
    with pytest.raises(SettingError) as caught:
        context(*made(pair, tmp_path))
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "BEGIN" not in str(caught.value)


def test_missing_credential_says_what_to_do(pair: tuple[Path, Path], tmp_path: Path) -> None:
    with pytest.raises(SettingError, match="was not there at the last daemon-reload") as caught:
        context(*pair, tmp_path)
    assert "daemon-reload" in str(caught.value.hint)


def test_expired_certificate_is_told(
    pair: tuple[Path, Path], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    context(*pair)
    assert "expired" not in caplog.text
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3 * 86400)
    context(*pair)
    assert f"the certificate {pair[0]} has expired on " in caplog.text
