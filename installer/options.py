"""What the admin asked `llmsvc install` for."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from llmsvc import env
from llmsvc.errors import UsageError


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of `llmsvc install`; None is what was not said."""

    model: str | None = None
    """A catalogue name, a .gguf file or OWNER/REPO/FILE.gguf."""
    listen: tuple[str, int] | None = None
    """Address and port for clients."""
    wheelhouse: Path | None = None
    key_file: Path | None = None


def parse_listen(text: str) -> tuple[str, int]:
    """`127.0.0.1:8001`, `[::1]:8001` or `0.0.0.0:80` as address and port.

    :raises UsageError: it is something else
    """
    match = re.fullmatch(r"(\[[^\]]+\]|[^:]+):([0-9]+)", text)
    try:
        if not match:
            raise ValueError("must be ADDRESS:PORT")
        return env.address(match[1]), int(env.integer(1, 65535)(match[2]))
    except ValueError as error:
        raise UsageError(
            f"--listen {text}: {error}", hint="for example --listen 0.0.0.0:8001, or --listen '[::1]:8001'"
        ) from None
