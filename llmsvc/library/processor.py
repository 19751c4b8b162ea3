"""Whether this machine's processor has the instructions that an engine was compiled for. Without them it
would end in the middle of its work, by SIGILL and without a word."""

from __future__ import annotations

import importlib.util
import platform
from pathlib import Path

from llmsvc.errors import ConflictError

CPUINFO = Path("/proc/cpuinfo")
NEEDS = "lib/instructions"
"""Below the package llama_cpp: what it was compiled for; written by packaging/wheelhouse.d/engine.sh."""
_PACKAGES = {"llama-cpp-python": "llama_cpp", "native": "xllamacpp"}
_XLLAMACPP = ("sse4_2", "avx", "f16c", "fma", "avx2", "bmi2")
"""What its wheels for x86_64 on PyPI are built for."""


def check(engine: str) -> None:
    """Finds an engine that cannot run here.

    :param engine: as ENGINE= names it
    :raises ConflictError: the processor is too old for what is installed
    """
    if missing := lacking(engine):
        if engine == "native":
            hint = "ENGINE=llama-cpp-python runs on any x86-64 processor since 2008"
        else:
            hint = (
                "it was compiled for another machine: sudo packaging/install.sh compiles it for this one, "
                "and packaging/wheelhouse makes one that runs on both"
            )
        raise ConflictError(
            f"this processor lacks {', '.join(missing)}, which {_PACKAGES[engine]} as installed needs",
            hint=hint,
        )


def lacking(engine: str) -> list[str]:
    """The instructions that an engine needs and this processor lacks, by their names in /proc/cpuinfo; none
    where the engine does not tell, or is not installed."""
    needs = _needs(engine)
    if not needs:
        return []
    has: set[str] = set()
    for line in CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines():
        key, _, value = line.partition(":")
        if key.strip() in ("flags", "Features"):
            has = set(value.split())
            break
    return [name for name in needs if name not in has] if has else []


def _needs(engine: str) -> list[str]:
    # without importing it, which may already be too much
    found = importlib.util.find_spec(_PACKAGES[engine])
    if not found or not found.origin:
        return []
    if engine == "native":
        return [*_XLLAMACPP] if platform.machine() == "x86_64" else []
    try:
        return (Path(found.origin).parent / NEEDS).read_text("ascii").split()
    except OSError:
        return []
