"""config.env and models.d: right, and readable for the services."""

from __future__ import annotations

from collections.abc import Iterator

from installer.doctor.finding import INSTALL, Finding, error, warning
from installer.doctor.host import Host
from llmsvc import config, paths
from llmsvc.errors import SettingError
from llmsvc.library import settings
from llmsvc.systemd import manager


def check(host: Host) -> Iterator[Finding]:
    """Every value that a service would refuse at its next start."""
    if not paths.CONFIG_ENV.exists():
        yield warning("config-missing", f"there is no {paths.CONFIG_ENV}", "defaults are used", INSTALL)
    elif not paths.CONFIG_ENV.stat().st_mode & 0o004 or not paths.ETC.stat().st_mode & 0o001:
        yield error(
            "config-unreadable",
            f"{paths.CONFIG_ENV} is not readable for the services, which are no root",
            "they cannot start again",
            f"sudo chmod 755 {paths.ETC} && sudo chmod 644 {paths.CONFIG_ENV}",
        )
    yield from _writable()
    for problem in host.config_problems:
        yield _setting(
            "config",
            problem,
            "what runs goes on; neither proxy nor model may start again",
            f"sudo systemctl restart {manager.PROXY}",
        )
    for file in sorted(paths.MODELS_D.glob("*.env")):
        if not config.valid_model_name(file.stem):
            yield warning(
                "model-name",
                f"{file} is no valid name of a model",
                "it is ignored",
                f"rename it: {config.MODEL_NAME_RULE}",
            )
            continue
        try:
            settings.load(file.stem, file)
        except SettingError as wrong:
            if wrong.file == file:
                why = f"the model {file.stem} does not start"
                yield _setting("model-setting", wrong, why, f"sudo llmsvc start {file.stem}")


def _setting(name: str, problem: SettingError, why: str, then: str) -> Finding:
    where = f"sudoedit {problem.file}" + (f", line {problem.line}" if problem.line else "")
    hint = f"{problem.hint}: " if problem.hint else ""
    return error(name, problem.message, why, f"{hint}{where}; then {then}")


def _writable() -> Iterator[Finding]:
    """Files that say what runs, and that others than root may change."""
    for path in (paths.ETC, paths.CONFIG_ENV, paths.MODELS_D, *sorted(paths.MODELS_D.glob("*.env"))):
        try:
            status = path.stat()
        except OSError:
            continue
        if status.st_uid != 0 or status.st_mode & 0o002:
            yield warning(
                "settings-writable",
                f"{path} can be changed by others than root (mode {status.st_mode & 0o7777:o}, "
                f"uid {status.st_uid})",
                "whoever may write there decides what runs, and who may reach it",
                f"sudo chown root:root {path} && sudo chmod o-w {path}",
            )
