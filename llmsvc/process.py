"""Runs other programs, and lends another user's identity. The only place that starts a process."""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, NoReturn

from llmsvc.errors import DeniedError, Error, UnavailableError

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_undisturbed = False
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
    stdin: str | IO[str] | None = None,
    stdout: IO[str] | None = None,
    env: Mapping[str, str] | None = None,
    keep_env: Sequence[str] = (),
    seconds: float | None = None,
    hint: str | None = None,
) -> subprocess.CompletedProcess[str]:
    """Runs a program with a clean environment and returns its result, stdout and stderr as text.

    :param check: raise ProcessError on a status other than 0
    :param stdin: text, or an open file, for its standard input; nothing by default
    :param stdout: an open file for its standard output, which is then not in the result
    :param env: variables to add
    :param keep_env: names of our own variables to pass on beside the few that always are
    :param seconds: kill it after this time
    :raises UnavailableError: the program is not installed, or it took too long
    """
    args = [os.fspath(a) for a in argv]
    try:
        done = subprocess.run(
            args,
            input=stdin if isinstance(stdin, str) else None,
            stdin=None if isinstance(stdin, str) else stdin or subprocess.DEVNULL,
            stdout=stdout or subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            env=_environment(env, keep_env),
            timeout=seconds,
            start_new_session=_undisturbed,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise UnavailableError(f"{args[0]} did not end within {seconds:g} s", hint=hint) from None
    except FileNotFoundError:
        raise UnavailableError(f"{args[0]} is not installed", hint=hint) from None
    if check and done.returncode:
        raise ProcessError(args, done.returncode, done.stderr or done.stdout or "", hint=hint)
    return done


@contextlib.contextmanager
def running(
    argv: Sequence[str | os.PathLike[str]],
    *,
    stdin: IO[bytes] | int = subprocess.DEVNULL,
    stdout: IO[bytes] | int = subprocess.DEVNULL,
    user: str | None = None,
    env: Mapping[str, str] | None = None,
    hint: str | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a program beside the block, for what is too large to hold; the block's end waits for its end.

    A block that fails kills it. Its environment is as clean as that of run().

    :param stdin: an open file, or subprocess.PIPE; so `stdout`
    :param user: whose identity it gets, where we are root
    :raises ProcessError: it ended with another status than 0
    :raises UnavailableError: the program is not installed
    """
    args = [os.fspath(a) for a in argv]
    identity = pwd.getpwnam(user) if user and os.geteuid() == 0 else None
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                args,
                stdin=stdin,
                stdout=stdout,
                stderr=errors,
                env=_environment(env),
                cwd="/",
                user=identity.pw_uid if identity else None,
                group=identity.pw_gid if identity else None,
                extra_groups=[] if identity else None,
            )
        except FileNotFoundError:
            raise UnavailableError(f"{args[0]} is not installed", hint=hint) from None
        with process:
            try:
                yield process
            except BrokenPipeError:
                pass  # it ended before it had read all: its status and words tell why
            except BaseException:
                process.kill()
                raise
            finally:
                if process.stdin:
                    with contextlib.suppress(BrokenPipeError):
                        process.stdin.close()
                    process.stdin = None  # Popen would try it once more
            status = process.wait()
        errors.seek(0)
        if status:
            raise ProcessError(args, status, errors.read().decode(errors="replace"), hint=hint)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Ctrl-C, SIGTERM and SIGHUP wait until the block's end, and do not reach what run() starts in it.

    :raises KeyboardInterrupt: at the end, if one came
    """
    global _undisturbed
    came: list[int] = []
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda number, _: came.append(number)) for number in signals]
    outer, _undisturbed = _undisturbed, True
    try:
        yield
    finally:
        _undisturbed = outer
        for number, old in zip(signals, before, strict=True):
            signal.signal(number, old)
    if came:
        raise KeyboardInterrupt


def become(argv: Sequence[str], *, keep_env: Sequence[str] = ()) -> NoReturn:
    """Goes on as another program, with the environment that run() gives.

    :raises OSError: it cannot be started
    """
    os.execve(argv[0], list(argv), _environment(None, keep_env))  # noqa: S606 - no shell is wanted


def _environment(env: Mapping[str, str] | None, keep: Sequence[str] = ()) -> dict[str, str]:
    return {"PATH": PATH} | {k: os.environ[k] for k in (*_KEPT, *keep) if k in os.environ} | dict(env or {})


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
