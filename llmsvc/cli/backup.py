"""`llmsvc db backup|restore`: this machine's service in one file, and back."""

from __future__ import annotations

import argparse
import contextlib
import datetime
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from llmsvc import paths
from llmsvc.cli import session
from llmsvc.cli.output import Result
from llmsvc.errors import ConflictError, UsageError

if TYPE_CHECKING:
    from llmsvc.config import Config


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds both to `llmsvc db`."""
    backup = verbs.add_parser(
        "backup",
        help="save users, keys, limits, ledger, settings and the list of models in a file",
        description="Saves what makes this service, while it runs on: the database (users, keys, limits,\n"
        "ledger), config.env, models.d and the credentials, in one tar. Model files are not in it.\n\n"
        "The pepper is: whoever has the file can make keys that work. Encrypt it where you store it.",
        epilog="examples:\n"
        f"  sudo llmsvc db backup                        # a new file in {paths.SAVED}, for root alone\n"
        "  sudo llmsvc db backup - | age -r RECIPIENT >llmsvc.tar.age\n"
        "  sudo llmsvc db backup - | gpg -e -r RECIPIENT >llmsvc.tar.gpg",
    )
    backup.add_argument(
        "file", nargs="?", metavar="FILE", help="a new file (mode 0600), or - for standard output"
    )
    backup.add_argument("--force", action="store_true", help="replace FILE if it exists")
    backup.set_defaults(command=_backup)
    restore = verbs.add_parser(
        "restore",
        help="put a backup in the place of what this machine has",
        description="Puts a backup in the place of this machine's users, keys, limits, ledger, settings and\n"
        "credentials: all of it, or on a failure nothing. Keys of the backup work then. Models that\n"
        "only this machine has stay; so does how it reaches its database. Clients are refused\n"
        "meanwhile. On a new machine, run 'llmsvc install' first.",
        epilog="examples:\n"
        "  sudo llmsvc db restore llmsvc.tar --force\n"
        "  age -d -i KEY llmsvc.tar.age | sudo llmsvc db restore - --force",
    )
    restore.add_argument("file", metavar="FILE", help="a backup, or - for standard input")
    restore.add_argument(
        "--force",
        action="store_true",
        help=f"also where users or requests would be replaced; they are saved in {paths.SAVED} first",
    )
    restore.set_defaults(command=_restore)


def _backup(args: argparse.Namespace) -> Result | int:
    from llmsvc.process import require_root

    require_root("a backup")
    if args.file == "-":
        if getattr(args, "json", False):
            raise UsageError("standard output is the backup itself", hint="name a FILE with --json")
        if sys.stdout.isatty():
            raise UsageError(
                "a backup is no text for a terminal", hint="pipe it somewhere, or name a FILE instead of -"
            )
        from llmsvc.backup import make

        make.make(_configuration(), sys.stdout.buffer)
        session.note("db backup", "standard output")
        return 0
    file = Path(args.file) if args.file else _new_file("backup")
    if file.exists() and not args.force:
        raise ConflictError(f"{file} exists", hint="name another file, or add --force to replace it")
    data = _save(file) | {"file": file.absolute()}
    session.note("db backup", str(file.absolute()))
    return Result(
        data,
        f"saved {file}, which holds secrets: for root alone\nput it back: sudo llmsvc db restore {file}",
    )


def _configuration() -> Config:
    """The settings of this machine, which has a database."""
    found = session.configuration()
    if not found.llama_proxy_enabled:
        raise ConflictError(
            "in single-key mode there is no database", hint=f"all there is lies in {paths.ETC}; copy that"
        )
    return found


def _save(file: Path, *, checked: bool = True) -> dict[str, object]:
    from llmsvc.backup import make

    with _written(file) as stream:
        about = make.make(_configuration(), stream, checked=checked)
    return {"size": file.stat().st_size, "made": about.made, "llmsvc": about.llmsvc, "models": about.models}


@contextlib.contextmanager
def _written(file: Path) -> Iterator[IO[bytes]]:
    """A file that only root can read, and that is there whole or not at all."""
    descriptor, temporary = tempfile.mkstemp(prefix=f".{file.name}.", dir=file.absolute().parent)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(descriptor)
        Path(temporary).replace(file)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _new_file(what: str) -> Path:
    paths.SAVED.mkdir(mode=0o700, parents=True, exist_ok=True)
    return paths.SAVED / f"{what}-{datetime.datetime.now().astimezone():%Y%m%d-%H%M%S}.tar"


def _opened(file: str) -> contextlib.AbstractContextManager[IO[bytes]]:
    return contextlib.nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb")


def _restore(args: argparse.Namespace) -> Result:
    from llmsvc.process import require_root

    require_root("a restore")
    os.umask(0o022)  # the services, which are no root, must be able to read what they need of it

    from llmsvc.backup import archive, make, restore
    from llmsvc.library import files

    own = _configuration()
    paths.INSTALL_LOCK.mkdir(mode=0o700, exist_ok=True)
    called = "standard input" if args.file == "-" else args.file
    saved = None
    with (
        files.locked(paths.INSTALL_LOCK, waiting="waiting for another installation or restore to end"),
        make.work_directory() as work,
        _opened(args.file) as source,
    ):
        backup = archive.read(source, called, work)
        restore.check(backup)
        if restore.require_free(own, force=args.force):
            saved = _new_file("before-restore")
            _save(saved, checked=False)
        done = restore.restore(backup, own)
    about = backup.about
    lines = [f"restored the backup of {about.host} from {about.made}: its keys work on this machine"]
    lines += [f"what was here before is in {saved}"] if saved else []
    for model in done.missing:
        how = f"sudo llmsvc model add {model.what or 'SOURCE'} --name {model.name}"
        lines.append(f"the file of model {model.name} ({model.file or 'unknown'}) is not here: {how}")
    if about.default_model and done.default_model != about.default_model:
        lines.append(f"so the default model is {done.default_model or 'none'}, not {about.default_model}")
    if done.problem:
        lines.append(f"no model runs yet: {done.problem}")
    data = {"made": about.made, "host": about.host, "saved": saved, **vars(done)}
    return Result(data, "\n".join(lines), exit_code=1 if done.problem else 0)
