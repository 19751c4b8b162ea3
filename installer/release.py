"""The environment that the services run from, wherever `llmsvc install` was started: one of root's own below
/opt/llmsvc/releases, which the sandbox can read."""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import sys
import sysconfig
from pathlib import Path

import llmsvc
from installer.undo import Undo
from llmsvc import paths
from llmsvc.errors import Error
from llmsvc.process import run

_DATA = ("units", "templates", "models")


def wanted() -> Path:
    """The environment that the services shall run from: our own if it is a release, else a copy of it.

    :raises Error: it cannot be copied
    """
    prefix = Path(sys.prefix).resolve()
    planned = prefix / "PLANNED"  # by packaging/install.sh --dry-run
    if planned.exists():
        return Path(planned.read_text(encoding="utf-8").strip())
    if prefix.is_relative_to(paths.PREFIX.resolve()):  # /opt may be a link itself
        return paths.PREFIX / prefix.relative_to(paths.PREFIX.resolve())
    if not any(importlib.util.find_spec(engine) for engine in ("llama_cpp", "xllamacpp")):
        raise Error(
            f"there is neither llama-cpp-python nor xllamacpp in {prefix}, of which the services need one",
            hint="install llmsvc[engine] or llmsvc[native] instead of llmsvc, or use packaging/install.sh",
        )
    python = paths.PYTHON
    version = run([python, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]).stdout.strip()
    if version != f"{sys.version_info.major}.{sys.version_info.minor}":
        raise Error(
            f"this is Python {sys.version.split()[0]}, and the services need {python}, which is {version}",
            hint=f"install llmsvc with {python}: pipx install --python {python}; or packaging/install.sh",
        )
    return paths.PREFIX / "releases" / f"{llmsvc.__version__}-{_fingerprint()}"


def complete(release: Path) -> bool:
    """Whether a release is there whole."""
    return (release / "COMPLETE").exists()


def make(release: Path, undo: Undo) -> None:
    """Copies the environment that runs us to `release`.

    :raises Error: it cannot be copied
    """
    undo.directories([release.parent])
    undo.appearing([release])
    shutil.rmtree(release, ignore_errors=True)
    release.parent.mkdir(parents=True, exist_ok=True)
    # by its version's name: an upgrade of the distribution gives the short one to another, and this one stays
    run([paths.PYTHON.resolve(), "-m", "venv", "--without-pip", release])
    site = next((release / "lib").glob("python3*")) / "site-packages"
    ignore = shutil.ignore_patterns(
        "__pycache__", "__editable__*", "*.pth", "_virtualenv.py", "distutils-precedence*"
    )
    for key in ("purelib", "platlib"):
        shutil.copytree(sysconfig.get_path(key), site, ignore=ignore, dirs_exist_ok=True)
    for package in ("llmsvc", "installer"):
        shutil.copytree(_package(package), site / package, ignore=ignore, dirs_exist_ok=True)
    for name in _DATA:
        shutil.copytree(paths.data(name), release / "share/llmsvc" / name, dirs_exist_ok=True)
    command = release / "bin/llmsvc"
    command.write_text(
        f"#!{release}/bin/python\nimport sys\nfrom llmsvc.cli.main import main\nsys.exit(main())\n",
        encoding="utf-8",
    )
    command.chmod(0o755)
    for folder, _, files in os.walk(release):
        for place in (Path(folder), *(Path(folder, name) for name in files)):
            if not place.is_symlink():
                os.chown(place, 0, 0)
                place.chmod(place.stat().st_mode & 0o755 | 0o444)
    run([release / "bin/python", "-m", "compileall", "-q", release / "lib"])
    (release / "COMPLETE").touch()


def _fingerprint() -> str:
    """Names what a copy is made of: our own files, and the versions of the packages beside them."""
    digest = hashlib.sha256()
    for folder in (_package("llmsvc"), _package("installer"), *map(paths.data, _DATA)):
        for file in sorted(folder.rglob("*")):
            if file.is_file() and file.suffix != ".pyc":
                digest.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    names = sorted(f"{d.name}=={d.version}" for d in importlib.metadata.distributions())
    return hashlib.sha256(digest.digest() + "\n".join(names).encode()).hexdigest()[:8]


def _package(name: str) -> Path:
    found = importlib.util.find_spec(name)
    assert found and found.origin
    return Path(found.origin).parent
