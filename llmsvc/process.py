"""Runs other programs, and lends another user's identity. The only place that starts a process."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence

from llmsvc.errors import DeniedError, Error, UnavailableError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_KEPT = ("HOME", "LANG", "LC_ALL", "TERM", "TZ", "TMPDIR")


class ProcessError(Error):
    """A program ended with a status that was not expected; the message holds its last words."""

    def __init__(self, argv: Sequence[str], status: int, output: str, *, hint: str | None = None) -> None:
        last = output.strip().splitlines()[-1:] or ["no output"]
        super().__init__(f"{shlex.join(argv)} failed ({status}): {last[0]}", hint=hint)
        self.argv = list(argv)
        self.status = status
        self.output = output


def run(
    argv: Sequence[str | os.PathLike[str]],
    *,
    check: bool = True,
    stdin: str | None = None,
    env: Mapping[str, str] | None = None,
    keep_env: Sequence[str] = (),
    seconds: float | None = None,
    hint: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a program with a clean environment and returns its result, stdout and stderr as text.

    :param check: raise ProcessError on a status other than 0
    :param stdin: text for its standard input; nothing by default
    :param env: variables to add
    :param keep_env: names of our own variables to pass on beside the few that always are
    :param seconds: kill it after this time
    :raises UnavailableError: the program is not installed, or it took too long
    """
    args = [os.fspath(a) for a in argv]
    clean = (
        {"PATH": PATH} | {k: os.environ[k] for k in (*_KEPT, *keep_env) if k in os.environ} | dict(env or {})
    )
    try:
        done = subprocess.run(
            args,
            input=stdin,
            stdin=subprocess.DEVNULL if stdin is None else None,
            capture_output=True,
            text=True,
            errors="replace",
            env=clean,
            timeout=seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{args[0]} did not end within {seconds:g} s", hint=hint) from None
    except FileNotFoundError:
        raise UnavailableError(f"{args[0]} is not installed", hint=hint) from None
    if check and done.returncode:
        raise ProcessError(args, done.returncode, done.stderr or done.stdout, hint=hint)
    return done


def require_root(what: str) -> None:
    """Raises DeniedError, with the hint to use sudo, unless we run as root."""
    if os.geteuid() != 0:
        raise DeniedError(f"{what} needs root", hint="run it again with sudo")


@contextlib.contextmanager
def identity(user: str) -> Iterator[None]:
    """Lends root the effective identity of `user`, as peer authentication of PostgreSQL needs it.

    Does nothing where we are that user already. Not for use beside other threads: the effective ids are the
    whole process's.
    """
    try:
        entry = pwd.getpwnam(user)
    except KeyError:
        raise UnavailableError(
            f"user {user} does not exist", hint="run 'sudo llmsvc install' first"
        ) from None
    if os.geteuid() == entry.pw_uid:
        yield
        return
    if os.geteuid() != 0:
        raise DeniedError("this needs root", hint="run it again with sudo")
    groups = os.getgroups()
    gid = os.getegid()
    os.setgroups([])
    os.setegid(entry.pw_gid)
    os.seteuid(entry.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(gid)
        os.setgroups(groups)
