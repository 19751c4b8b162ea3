"""units/llmsvc-models-reload.service: one daemon-reload, and another one only for what changed meanwhile."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

import pytest

from llmsvc import paths


@pytest.mark.parametrize("changes", [0, 2])
def test_it_reloads_again_for_changes_meanwhile_and_not_for_times_in_the_future(
    tmp_path: Path, changes: int
) -> None:
    models, calls, programs = tmp_path / "models.d", tmp_path / "calls", tmp_path / "bin"
    models.mkdir()
    (models / "a.env").touch()
    later = time.time() + 7200
    os.utime(models / "a.env", (later, later))
    programs.mkdir()
    (programs / "systemctl").write_text(
        f'#!/bin/sh\necho "$@" >>{calls}\n'
        f"n=$(wc -l <{calls})\nif [ $n -le {changes} ]; then echo $n >{models}/$n.env; fi\n"
    )
    (programs / "systemctl").chmod(0o755)
    unit = paths.data("units", "llmsvc-models-reload.service").read_text()
    (command,) = (line for line in unit.splitlines() if line.startswith("ExecStart="))
    script = command.split("'")[1].replace("$$", "$").replace(str(paths.MODELS_D), str(models))
    environment = {"PATH": f"{programs}:{os.environ['PATH']}"}
    subprocess.run(["/bin/sh", "-euc", script], check=True, timeout=20, env=environment)
    assert calls.read_text().splitlines() == ["daemon-reload"] * (changes + 1)
