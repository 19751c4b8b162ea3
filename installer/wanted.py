"""config.env as it shall be: the admin's own text with what the options ask for, or a new one."""

from __future__ import annotations

from installer import clusters, render
from installer.manifest import Manifest
from installer.options import Options
from llmsvc import config, env, paths


def config_text(options: Options) -> str:
    """The text of config.env; what the admin wrote into it stays, unless an option says otherwise.

    :raises UsageError: the options do not fit the mode
    :raises SettingError: what is there is no text
    """
    text = env.text(paths.CONFIG_ENV)
    values = options.settings(text or "")
    return render.config_env(values) if text is None else env.set_values(text, values)


def with_port(text: str, manifest: Manifest, *, named: bool) -> str:
    """The text of config.env with the port of the cluster that has our database, where that is another one.

    :param named: the admin has just said which one; it may have none yet
    :raises Error: it is in a cluster that does not run
    """
    settings = config.parse(env.parse(text, paths.CONFIG_ENV), paths.CONFIG_ENV)
    if not settings.llama_proxy_enabled or not settings.local_database:
        return text
    expected = not named and manifest.made.get("database") == settings.postgres_auth_db
    port = clusters.port(settings, expected=expected)
    return (
        text
        if port == settings.postgres_auth_port
        else env.set_values(text, {"POSTGRES_AUTH_PORT": str(port)})
    )
