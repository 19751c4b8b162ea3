"""What can be refused before there is an environment: by any Python, without a package.

packaging/install.sh asks before it downloads or compiles for minutes. `llmsvc install` checks the same again.
"""

from __future__ import annotations

import os
from pathlib import Path

from installer import ports, services
from installer.options import Options
from llmsvc import config, env, paths
from llmsvc.config import Config
from llmsvc.errors import ConflictError, UsageError
from llmsvc.library import gguf, sources
from llmsvc.library.wanted import Wanted, resolve


def check_options(options: Options) -> None:
    """Finds what they, or config.env, ask for in vain.

    :raises errors.Error: a wrong setting, no such model, or as check()
    """
    text = env.text(paths.CONFIG_ENV) or ""
    text = env.set_values(text, options.settings(text))
    settings = config.parse(env.parse(text, paths.CONFIG_ENV), paths.CONFIG_ENV)
    check(settings, resolve(options.model) if options.model else None, options.key_file)


def check(settings: Config, model: Wanted | None, key_file: Path | None) -> None:
    """Finds what this machine cannot give.

    :param model: the one to be installed
    :param key_file: where the first key shall go, which is shown only once
    :raises errors.Error: a broken model file, a masked unit, a port that somebody has, no place for the key
    """
    if key_file and (key_file.is_dir() or not key_file.parent.is_dir()):
        raise UsageError(
            f"--key-file {key_file}: "
            + ("is a directory" if key_file.is_dir() else "there is no such directory")
        )
    if model and isinstance(model.source, sources.Local):
        gguf.read_header(model.source.path)
    for name in services.at_boot(proxy=settings.llama_proxy_enabled):
        if os.path.realpath(paths.DROP_INS / name) == os.devnull:
            raise ConflictError(
                f"{name} is masked", hint=f"sudo systemctl unmask {name}; then run this again"
            )
    ports.check(settings.listen)
