"""What can be refused before there is an environment: by any Python, without a package.

packaging/install.sh asks before it downloads or compiles for minutes. `llmsvc install` checks the same again.
"""

from __future__ import annotations

from installer import ports
from installer.options import Options
from llmsvc import config, env, paths
from llmsvc.config import Config
from llmsvc.library import gguf, sources
from llmsvc.library.wanted import Wanted, resolve


def check_options(options: Options) -> None:
    """Finds what they, or config.env, ask for in vain.

    :raises errors.Error: a wrong setting, no such model, or as check()
    """
    text = env.text(paths.CONFIG_ENV) or ""
    text = env.set_values(text, options.settings(text))
    settings = config.parse(env.parse(text, paths.CONFIG_ENV), paths.CONFIG_ENV)
    check(settings, resolve(options.model) if options.model else None)


def check(settings: Config, model: Wanted | None) -> None:
    """Finds what this machine cannot give.

    :param model: the one to be installed
    :raises errors.Error: a broken model file, a port that somebody else has
    """
    if model and isinstance(model.source, sources.Local):
        gguf.read_header(model.source.path)
    ports.check(settings.listen)
