"""config.env and models.d: right, and readable for the services."""

from __future__ import annotations

from collections.abc import Iterator

from installer.doctor.finding import INSTALL, Finding, error, warning
from installer.doctor.host import Host
from llmsvc import config, paths
from llmsvc.errors import SettingError
from llmsvc.library import settings


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
    if problem := host.config_problem:
        yield _setting("config", problem, "the proxy that runs goes on; it cannot start again")
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
            yield _setting("model-setting", wrong, f"the model {file.stem} does not start")


def _setting(name: str, problem: SettingError, why: str) -> Finding:
    return error(name, problem.message, why, problem.hint or f"sudoedit {problem.file}")
