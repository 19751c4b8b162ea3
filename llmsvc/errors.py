"""Every error that a user may see, in one hierarchy.

Error                    exit 1   something failed; the message says what, the hint what to do
├── UsageError           exit 2   the command line is wrong
├── NotFoundError        exit 3   no such user, key, model
├── DeniedError          exit 4   needs root, or another group
├── ConflictError        exit 5   it exists already, or is in use
│   └── CanceledError    exit 5   another command took the place of this one
├── UnavailableError     exit 6   a part that is needed does not answer: systemd, PostgreSQL, the hub
└── SettingError         exit 78  a bad value in a settings file, with file, line and key
    └── ModelError       exit 78  a model that no restart can mend: missing, broken or unsupported GGUF

The command line prints `llmsvc: MESSAGE` and `hint: HINT` and exits with `exit_code`; no traceback. Any other
exception is a bug and keeps its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

EX_CONFIG = 78
"""sysexits.h: configuration error. systemd does not restart a unit that exits with it."""


class Error(Exception):
    """A failure that the user can understand; `hint` says what to do about it."""

    exit_code = 1

    def __init__(
        self, message: str, *, hint: str | None = None, details: Mapping[str, object] | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = dict(details or {})
        """What programs get beside message and hint under --json."""


class UsageError(Error):
    """The command line asks for something that makes no sense."""

    exit_code = 2


class NotFoundError(Error):
    """The thing that was named does not exist."""

    exit_code = 3


class DeniedError(Error):
    """The caller may not do this."""

    exit_code = 4


class ConflictError(Error):
    """The thing exists already or is in use."""

    exit_code = 5


class CanceledError(ConflictError):
    """Another command came and took the place of this one."""


class UnavailableError(Error):
    """A part that is needed does not answer."""

    exit_code = 6


class SettingError(Error):
    """A bad value in a settings file. `str()` is one line: `FILE:LINE: KEY: what is wrong`."""

    exit_code = EX_CONFIG

    def __init__(
        self,
        problem: str,
        *,
        file: Path | None = None,
        line: int | None = None,
        key: str | None = None,
        hint: str | None = None,
    ) -> None:
        place = "" if file is None else f"{file}:{line}: " if line else f"{file}: "
        super().__init__(f"{place}{key + ': ' if key else ''}{problem}", hint=hint)
        self.file = file
        self.line = line
        self.key = key
        self.problem = problem


class ModelError(SettingError):
    """A model that no restart can mend: its GGUF is missing, broken or not supported."""
