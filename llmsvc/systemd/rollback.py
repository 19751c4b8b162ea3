"""Goes back to the last good model after one failed to start: the work of llama-server-rollback@.service."""

from __future__ import annotations

from pathlib import Path

from llmsvc import config, paths
from llmsvc.errors import Error
from llmsvc.process import run
from llmsvc.systemd import manager
from llmsvc.systemd.journal import Journal


def good_models() -> list[str]:
    """Models that once became READY and still exist, the latest first."""
    names = _read(paths.GOOD_MODELS)
    return [n for n in names if config.valid_model_name(n) and (paths.MODELS_D / f"{n}.env").exists()]


def _read(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except FileNotFoundError:
        return []


def roll_back(failed: str, journal: Journal) -> str | None:
    """Starts the last good model that did not fail lately, unless an operator already asked for another one.

    Returns its name, or None where nothing was started. The start is queued, not awaited, and never displaces
    a job that is queued already (--job-mode=fail): an operator's pending command comes first.
    """
    busy = [
        manager.instance_name(s.unit) for s in manager.instances() if s.active in ("active", "activating")
    ]
    busy = [name for name in busy if name != failed]
    if busy:
        journal.send(f"{failed} failed; {busy[0]} runs already, nothing to do")
        return None
    names = {failed, *_read(paths.FAILED_MODELS)}
    paths.FAILED_MODELS.write_text("".join(f"{name}\n" for name in sorted(names)), encoding="utf-8")
    for name in good_models():
        if name in names:
            continue
        manager.reset_failed(name)
        done = run(["systemctl", "start", "--no-block", "--job-mode=fail", manager.unit(name)], check=False)
        if done.returncode:
            raise Error(f"{failed} failed, and going back to {name} was refused: {done.stderr.strip()}")
        journal.send(
            f"{failed} failed; going back to {name}, the last good model",
            priority=4,
            fields={"LLM_MODEL": name, "LLM_FAILED_MODEL": failed},
        )
        return name
    journal.send(f"{failed} failed, and no other good model is left: no model runs", priority=3)
    return None
