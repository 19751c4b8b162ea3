"""config.env as it shall be: the admin's own text with what the options ask for, or a new one."""

from __future__ import annotations

from installer import clusters, render
from installer.manifest import Manifest
from installer.options import Options
from llmsvc import config, env, paths
from llmsvc.errors import UsageError


def config_text(options: Options) -> str:
    """The text of config.env; what the admin wrote into it stays, unless an option says otherwise.

    :raises UsageError: the options do not fit the mode
    """
    values = {}
    if options.proxy is not None:
        values["LLAMA_PROXY_ENABLED"] = "1" if options.proxy else "0"
    if options.database:
        values |= options.database.settings()
    try:
        text = paths.CONFIG_ENV.read_text(encoding="utf-8")
    except FileNotFoundError:
        text = None
    if options.listen:
        proxy = options.proxy
        if proxy is None:
            proxy = config.parse(
                env.parse(text or "", paths.CONFIG_ENV), paths.CONFIG_ENV
            ).llama_proxy_enabled
        values |= _listen(options.listen, text or "", proxy=proxy)
    if options.engine:
        values["LLAMA_ENGINE"] = options.engine
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


def _listen(places: tuple[str, ...], text: str, *, proxy: bool) -> dict[str, str]:
    host, _, port = places[0].rpartition(":")
    host = host.strip("[]")
    if proxy:
        values = {"LLAMA_PROXY_HOST": host, "LLAMA_PROXY_PORT": port}
        if places[1:] or "\nLLAMA_PROXY_LISTEN=" in text:
            values["LLAMA_PROXY_LISTEN"] = " ".join(places[1:])
        return values
    if len(places) > 1:
        raise UsageError("in single-key mode there is one address", hint="name one --listen")
    return {"LLAMA_SERVER_HOST": host, "LLAMA_SERVER_PORT": port}
