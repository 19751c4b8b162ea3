"""Certificates for tests, made by openssl."""

from __future__ import annotations

import subprocess
from pathlib import Path


def make(directory: Path, name: str = "proxy", *options: str) -> tuple[Path, Path]:
    """A self-signed certificate for 127.0.0.1 and its key.

    :param options: more of `openssl req`
    """
    cert, key = directory / f"{name}.pem", directory / f"{name}.key"
    subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
                "-nodes",
            ),
            *("-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost", "-days", "2"),
            *("-out", str(cert), "-keyout", str(key), *options),
        ],
        check=True,
        capture_output=True,
    )
    return cert, key
