"""docs/settings.md says what the code takes; --write-docs writes it."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest

from llmsvc import config, config_settings
from llmsvc.env import Setting
from llmsvc.library import settings

FILE = Path(__file__).parents[2] / "docs" / "settings.md"

HEAD = """# Settings

Made from the code by its test: do not edit. To make it anew:

    sudo tests/run unit -- -k settings_docs --write-docs

Both files have the syntax of systemd's `EnvironmentFile=`: `KEY=value`, comments after `#`, quotes where you
like. The services read them themselves: a bad or unknown setting is refused at start with file, line and what
is allowed, and so is a secret, which belongs into a file of its own in `/etc/llmsvc/credentials` (mode 0600).
`sudo llmsvc doctor` checks all of it without a restart.

"""

CONFIG = """## /etc/llmsvc/config.env

Of the whole machine. After a change: `sudo systemctl restart auth-proxy`; after one of `LLAMA_PROXY_HOST` or
`LLAMA_PROXY_PORT`: `sudo llmsvc install`; after one of `LLAMA_PROXY_TLS_CERT` or `LLAMA_PROXY_TLS_KEY`:
`sudo systemctl daemon-reload`, and then the restart.

"""

SECRETS = """
Secrets are not allowed in there:

| Key | belongs into |
|---|---|
"""

MODEL = """
## /etc/llmsvc/models.d/NAME.env

Of one model. After a change: `sudo systemctl restart llama-server@NAME`. Keys that are not llmsvc's own
(`ENGINE`, `GPU`, `REQUIRE_GPU`) are those of `llama_cpp.server`.

"""

REFUSED = """
What `llama_cpp.server` has and is refused here:

| Key | why |
|---|---|
"""


def text() -> str:
    """The whole file."""
    parts = [HEAD, CONFIG, table(config_settings.SETTINGS), SECRETS]
    parts += [f"| `{key}` | `/etc/llmsvc/credentials/{name}` |\n" for key, name in config.SECRETS.items()]
    parts += [MODEL, table(settings.SETTINGS), REFUSED]
    parts += [f"| `{key}` | {why} |\n" for key, why in sorted(settings.REFUSED.items())]
    return "".join(parts)


def table(rows: Iterable[Setting]) -> str:
    lines = ["| Key | Default | Meaning |\n", "|---|---|---|\n"]
    for row in rows:
        default = f"`{row.default}`" if row.default else "-"
        meaning = row.doc.replace("|", "\\|") + (f" [{row.unit}]" if row.unit else "")
        lines.append(f"| `{row.key}` | {default} | {meaning} |\n")
    return "".join(lines)


def test_the_settings_in_the_docs_are_those_of_the_code(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("--write-docs"):
        FILE.write_text(text())
    assert FILE.read_text() == text(), "the command at the top of docs/settings.md makes it anew"
