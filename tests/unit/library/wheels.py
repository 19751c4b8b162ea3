"""Builds wheels that carry a GGUF, and catalogue entries for them."""

from __future__ import annotations

import hashlib
import zipfile
from pathlib import Path


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def wheel(directory: Path, package: str, member: str, contents: bytes) -> Path:
    """A wheel that pip accepts; importing or installing its code would leave a trace, which no test wants."""
    directory.mkdir(exist_ok=True)
    name = package.replace("-", "_")
    file = directory / f"{name}-1.0-py3-none-any.whl"
    info = f"{name}-1.0.dist-info"
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(member, contents)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return file


def entry(wheels: list[tuple[Path, str, str]], contents: bytes, **changes: str) -> str:
    """The TOML of a catalogue entry for (file, package, member) wheels that make `contents` together."""
    text = (
        'title = "Tiny"\nparameters = "1k"\nquantization = "Q4_K_M"\n'
        f'size = {len(contents)}\ncontext = 2048\nlicence = "MIT"\nnotes = "For tests."\n'
        f'chat_format = "gemma"\n[pypi]\nfile = "Tiny.gguf"\nsha256 = "{sha256(contents)}"\n'
    )
    for file, package, member in wheels:
        text += (
            f'[[pypi.wheels]]\npackage = "{package}"\nversion = "1.0"\n'
            f'sha256 = "{sha256(file.read_bytes())}"\nmember = "{member}"\n'
        )
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    return text
