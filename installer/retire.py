"""Takes away what this release, or this mode, does without: units are stopped, and files of ours go."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from installer import services
from installer.actions import Action, Step
from installer.manifest import Manifest
from installer.undo import Undo
from llmsvc import paths


def actions(manifest: Manifest, wanted: set[str]) -> Iterator[Action]:
    """What is in the manifest and not wanted any more goes.

    :param wanted: paths of the files that stay
    """
    files = [Path(path) for path in sorted(manifest.written) if path not in wanted]
    yield _stopping([file.name for file in files if file.parent == paths.UNITS and "@" not in file.name])
    for file in files:
        yield Step("file", f"remove {file}", lambda: True, _Remove(manifest, file))


def other_mode(*, proxy: bool) -> Action:
    """The units of the other mode, where a package brings those of both.

    :param proxy: whether the mode is the one with the proxy
    """
    mine = services.at_boot(proxy=proxy)
    return _stopping([name for name in services.at_boot(proxy=not proxy) if name not in mine])


def _stopping(units: list[str]) -> Action:
    return Step(
        "unit",
        f"stop and disable {', '.join(units)}",
        lambda: any(unit.active or unit.enabled for unit in services.units(units).values()),
        lambda undo: _stop(undo, units),
    )


def _stop(undo: Undo, names: list[str]) -> None:
    # the sockets first: a request would start their services again
    names = sorted(names, key=lambda name: not name.endswith((".socket", ".path", ".timer")))
    for name in names:
        text = (paths.UNITS / name).read_text(encoding="utf-8") if (paths.UNITS / name).exists() else ""
        for link in services.links(name, text):
            undo.file(link)
    services.stop(names)
    services.disable(names)


class _Remove:
    """Removes one file; what an admin made of it is kept beside it."""

    def __init__(self, manifest: Manifest, file: Path) -> None:
        self._manifest = manifest
        self._file = file

    def __call__(self, undo: Undo) -> None:
        saved = self._file.with_name(self._file.name + ".llmsvc-saved")
        beside = self._file.with_name(self._file.name + ".llmsvc-new")
        for path in (self._file, saved, beside):
            undo.file(path)
        beside.unlink(missing_ok=True)
        if self._manifest.edited(self._file):
            self._file.replace(saved)
        else:
            self._file.unlink(missing_ok=True)
        self._manifest.forget(self._file)
