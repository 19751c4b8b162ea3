"""HTTPS for those without a reverse proxy: certificate and key as systemd's credentials.

Root reads both files as it starts the service (LoadCredential=), so that the key may stay where and as closed
as it is; units/llmsvc-generator writes that drop-in at a daemon-reload.
"""

from __future__ import annotations

import logging
import ssl
import time
from pathlib import Path

from llmsvc import paths
from llmsvc.config import Config
from llmsvc.errors import SettingError

_log = logging.getLogger(__name__)

_CERT, _KEY = "LLAMA_PROXY_TLS_CERT", "LLAMA_PROXY_TLS_KEY"
# with TLS 1.2: forward secrecy and authenticated encryption alone; those of TLS 1.3 are all like that
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20"


def context(config: Config, credentials: str | None) -> ssl.SSLContext | None:
    """What to serve HTTPS with; None where it is not wanted.

    :param credentials: directory of systemd's credentials; without one, started by hand, the files themselves
    :raises SettingError: one of the two is missing or unusable, or they do not belong together
    """
    cert, key = config.llama_proxy_tls_cert, config.llama_proxy_tls_key
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        missing, there = (_CERT, _KEY) if cert is None else (_KEY, _CERT)
        raise SettingError(f"is missing, {there} is set", file=paths.CONFIG_ENV, key=missing)
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.minimum_version = ssl.TLSVersion.TLSv1_2
    made.set_ciphers(_CIPHERS)
    made.set_alpn_protocols(["http/1.1"])
    made.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE
    _load(made, _read(cert, credentials, "tls-cert"), _read(key, credentials, "tls-key"), cert, key)
    return made


def _read(file: Path, credentials: str | None, name: str) -> Path:
    """Where to read a file that is set as `file`."""
    place = Path(credentials, name) if credentials else file
    setting = _CERT if name == "tls-cert" else _KEY
    try:
        place.read_bytes()
    except FileNotFoundError:
        hint = "see that the file exists, then 'systemctl daemon-reload' and 'systemctl restart auth-proxy'"
        told = f"{file} was not there at the last daemon-reload" if credentials else f"{file} does not exist"
        raise SettingError(told, key=setting, file=paths.CONFIG_ENV, hint=hint) from None
    except OSError as error:
        raise SettingError(f"{file}: {error.strerror}", key=setting, file=paths.CONFIG_ENV) from None
    return place


def _load(made: ssl.SSLContext, cert: Path, key: Path, cert_name: Path, key_name: Path) -> None:
    def no_password() -> str:
        raise SettingError(
            f"{key_name} has a password, and nobody is there to type it",
            file=paths.CONFIG_ENV,
            key=_KEY,
            hint="openssl pkey -in FILE -out FILE-WITHOUT-PASSWORD",
        )

    try:
        made.load_cert_chain(cert, key, no_password)
    except ssl.SSLError as error:
        if error.reason == "KEY_VALUES_MISMATCH":
            raise SettingError(
                f"{key_name} is not the key of the certificate {cert_name}", file=paths.CONFIG_ENV, key=_KEY
            ) from None
        which, name = (
            (_CERT, cert_name) if "-----BEGIN CERTIFICATE-----" not in _text(cert) else (_KEY, key_name)
        )
        what = "certificate" if which == _CERT else "private key"
        raise SettingError(
            f"{name} holds no {what} in PEM form that can be used ({error.reason or error})",
            file=paths.CONFIG_ENV,
            key=which,
        ) from None
    _warn_expiry(cert, cert_name)


def _warn_expiry(cert: Path, name: Path) -> None:
    """Says so if the certificate is over: clients would only tell of a failed handshake."""
    try:
        # the only decoder that the standard library has
        decoded = ssl._ssl._test_decode_cert(str(cert))  # type: ignore[attr-defined]
        seconds = ssl.cert_time_to_seconds(decoded["notAfter"]) - time.time()
    except (AttributeError, KeyError, ValueError, ssl.SSLError):
        return
    if seconds < 0:
        _log.warning("the certificate %s has expired on %s", name, decoded["notAfter"])


def _text(file: Path) -> str:
    return file.read_text("ascii", "replace")
