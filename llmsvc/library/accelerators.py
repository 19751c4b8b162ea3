"""Which kinds of GPU the engines were built for, as their files tell: to import one takes a second."""

from __future__ import annotations

import functools
import importlib.util
import mmap
from pathlib import Path

KINDS = ("cuda", "hip", "vulkan")
_NEEDED = {"cuda": b"libcuda.so.", "hip": b"libamdhip64.so", "vulkan": b"libvulkan.so"}
"""The library that each cannot do without; llama.cpp for GPUs is linked to it."""
_PACKAGES = {"llama-cpp-python": "llama_cpp", "native": "xllamacpp"}


def installed(engine: str | None = None) -> frozenset[str]:
    """Those of KINDS that the engine of this environment was built for; all its engines if none is named."""
    found: set[str] = set()
    for name, package in _PACKAGES.items():
        if engine in (None, name) and (spec := importlib.util.find_spec(package)) and spec.origin:
            found |= _of_package(Path(spec.origin).parent)
    return frozenset(found)


def of_environment(environment: Path) -> frozenset[str]:
    """What the engines of another virtual environment were built for."""
    packages = [*environment.glob("lib/python3.*/site-packages/*/")]
    return frozenset().union(*(_of_package(one) for one in packages if one.name in _PACKAGES.values()))


def _of_package(package: Path) -> set[str]:
    names = [library.name for library in (package / "lib").glob("libggml-*")]
    found = {kind for kind in KINDS if any(name.startswith(f"libggml-{kind}") for name in names)}
    # all of xllamacpp is one file
    for library in package.glob("xllamacpp*.so"):
        found |= _linked(library, library.stat().st_mtime_ns)
    return found


@functools.lru_cache
def _linked(library: Path, _changed: int) -> frozenset[str]:
    with library.open("rb") as file:
        if not library.stat().st_size:
            return frozenset()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return frozenset(kind for kind, name in _NEEDED.items() if content.find(name) >= 0)
