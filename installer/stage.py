"""Has systemd judge the units in a directory of their own, before anything on the host is touched."""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from llmsvc import paths
from llmsvc.errors import Error
from llmsvc.process import run

_WITH_RECURSIVE_ERRORS = 250


def verify(units: Mapping[str, str], *, systemd: int) -> None:
    """Refuses units that systemd would not take, or would take only in part.

    :param units: file name to text
    :param systemd: its major version
    :raises Error: with systemd's own words
    """
    with tempfile.TemporaryDirectory(prefix="llmsvc-units-") as place:
        names = []
        for name, text in units.items():
            # the link to the environment that they will run from may not be there yet; ours is its equal
            Path(place, name).write_text(text.replace(str(paths.VENV), sys.prefix), encoding="utf-8")
            instance = name.replace("@.", "@check.")
            if instance != name:
                Path(place, instance).symlink_to(name)
            names.append(str(Path(place, instance)))
        recursive = ["--recursive-errors=yes"] if systemd >= _WITH_RECURSIVE_ERRORS else []
        # a path that ends in a colon: systemd's own directories follow
        done = run(
            ["systemd-analyze", "verify", "--man=no", *recursive, *names],
            env={"SYSTEMD_UNIT_PATH": f"{place}:"},
            check=False,
        )
        # what is wrong with others' units, or with an admin's drop-in, was so before
        instances = [re.escape(name.replace("@.", "@check.")) for name in units]
        ours = re.compile(rf"({re.escape(place)}/|({'|'.join(instances)}):)")
        said = [line for line in done.stderr.splitlines() if ours.match(line)]
        if said:
            words = said[0].replace(f"{place}/", "").replace("@check.", "@.")
            raise Error(
                f"systemd does not accept a unit: {words}",
                hint="nothing was changed; this is a mistake of llmsvc, or its release is damaged",
            )
