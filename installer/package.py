"""An installation from a package of the distribution: its units stay as they are, and what must differ on a
host, as for its GPU, goes into drop-ins."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from llmsvc import paths

DROP_IN = "20-llmsvc-host.conf"
_HEADER = "# Written by `llmsvc install`: what this machine needs beside the package's unit.\n"
_LISTS = frozenset(
    {
        *("After", "Before", "Wants", "Requires", "Sockets", "ListenStream", "Environment", "LoadCredential"),
        *("DeviceAllow", "SupplementaryGroups", "IPAddressAllow", "IPAddressDeny", "RestrictAddressFamilies"),
        *("SystemCallFilter", "ReadWritePaths", "BindReadOnlyPaths"),
    }
)
"""Settings of which each assignment adds to those before it; an empty one takes them away. Only dependencies
stay: with a database elsewhere the local PostgreSQL is wanted too, which does no harm."""

_Unit = dict[tuple[str, str], list[str]]


def release() -> str:
    """Names the package that is unpacked: services that run another one must be restarted."""
    return f"{paths.PACKAGE} {(paths.PACKAGE / 'COMPLETE').read_text(encoding='utf-8').strip()}"


def drop_ins(wanted: Mapping[str, str]) -> dict[Path, str]:
    """The drop-ins that make the package's units what they are to be here; path to text.

    One that was needed before, and is not any more, is kept without a setting in it.

    :param wanted: name to text of every unit
    """
    found = {}
    for name, text in sorted(wanted.items()):
        lines = difference((paths.UNITS / name).read_text(encoding="utf-8"), text)
        path = paths.DROP_INS / f"{name}.d" / DROP_IN
        if lines or path.exists():
            found[path] = _HEADER + "".join(f"{line}\n" for line in lines)
    return found


def difference(unit: str, wanted: str) -> list[str]:
    """The lines of a drop-in that makes one unit of another."""
    before, after = _parse(unit), _parse(wanted)
    lines: list[str] = []
    section = ""
    for place in [*after, *(gone for gone in before if gone not in after)]:
        old, new = before.get(place, []), after.get(place, [])
        if old == new:
            continue
        if place[0] != section:
            section = place[0]
            lines.append(f"[{section}]")
        added = new[len(old) :] if new[: len(old)] == old and place[1] in _LISTS else None
        if added is None:
            # one that is gone must be a list: what has one value keeps it where an empty one is assigned
            lines += [f"{place[1]}="] if place[1] in _LISTS else []
            added = new
        lines += [f"{place[1]}={value}" for value in added]
    return lines


def _parse(text: str) -> _Unit:
    """Section and key to the values, in their order."""
    found: _Unit = {}
    section = ""
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif "=" in line and not line.startswith(("#", ";")):
            key, _, value = line.partition("=")
            found.setdefault((section, key), []).append(value)
    return found
