"""Certificate and key, where the service speaks HTTPS itself."""

from __future__ import annotations

import contextlib
import ssl
from collections.abc import Iterator
from pathlib import Path

from installer.doctor.finding import INSTALL, Finding, error, warning
from installer.doctor.host import Host
from llmsvc import paths
from llmsvc.errors import UnavailableError
from llmsvc.process import run

_RENEW = "renew it, then sudo systemctl restart auth-proxy.service"
_SOON_SECONDS = 14 * 86400


def check(host: Host) -> Iterator[Finding]:
    """Whether both can be used, and for how long."""
    cert, key = host.config.llama_proxy_tls_cert, host.config.llama_proxy_tls_key
    if cert is None and key is None:
        return
    if cert is None or key is None:
        yield _unusable("LLAMA_PROXY_TLS_CERT and LLAMA_PROXY_TLS_KEY belong together: one is not set")
        return
    try:
        # a password would be asked for on the terminal
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, lambda: b"")
    except (OSError, ssl.SSLError) as wrong:
        missing = next((file for file in (cert, key) if not file.exists()), None)
        yield _unusable(f"there is no {missing}" if missing else f"{cert} with {key}: {wrong}")
        return
    with contextlib.suppress(UnavailableError):
        if not _lasts(cert, 0):
            yield error(
                "tls-expired", f"the certificate {cert} has expired", "clients refuse to connect", _RENEW
            )
        elif not _lasts(cert, _SOON_SECONDS):
            yield warning(
                "tls-expiry",
                f"the certificate {cert} expires within {_SOON_SECONDS // 86400} days",
                "then clients refuse to connect",
                _RENEW,
            )


def _unusable(what: str) -> Finding:
    return error(
        "tls",
        what,
        "the proxy cannot start again",
        f"put a certificate and its key there, or name others: sudoedit {paths.CONFIG_ENV}; then {INSTALL}",
    )


def _lasts(cert: Path, seconds: int) -> bool:
    """Whether the certificate holds for so long."""
    asked = ["openssl", "x509", "-noout", "-checkend", f"{seconds}", "-in", f"{cert}"]
    return run(asked, check=False).returncode == 0
