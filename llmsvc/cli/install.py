"""`llmsvc install`: makes this host a working LLM server, and shows that it is one."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import getpass
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmsvc import __version__, config_settings
from llmsvc.cli import completion, session
from llmsvc.cli.output import Result

if TYPE_CHECKING:
    from installer.apply import Done
    from installer.options import Database, Options
    from installer.plan import Plan

PENDING = 2
"""Exit status of --dry-run where there is something to do."""


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the command line."""
    parser = subparsers.add_parser(
        "install",
        help="set everything up, or bring it up to date",
        description="Sets everything up: users, directories, database, units, the first model and the first\n"
        "user; starts it and asks the model a question. Run it again at any time: it changes only\n"
        "what is not as it should be. What you edited stays: units are changed by drop-ins\n"
        "(systemctl edit), settings in /etc/llmsvc/config.env. What fails or is interrupted\n"
        "half-way is put back; after a kill or a power cut the next run does that first.",
        epilog="examples:\n"
        "  sudo llmsvc install --dry-run\n"
        "  sudo llmsvc install --model mistral\n"
        "  sudo llmsvc install --model /data/qwen2.5-7b-instruct-q4_k_m.gguf --listen 0.0.0.0:8001\n"
        "\n"
        "exit status of --dry-run: 0 nothing to do, 2 there is something to do",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="change nothing; print every change in the order of execution"
    )
    parser.add_argument(
        "--model",
        metavar="WHAT",
        help="model to install, start now and at boot: a name of 'llmsvc model catalog', a .gguf file, or "
        "OWNER/REPO/FILE.gguf on Hugging Face (default: what is the default model already, else smollm2)",
    )
    parser.add_argument(
        "--listen",
        action="append",
        default=[],
        metavar="PLACE",
        help="where clients connect: ADDRESS:PORT, '[IPV6]:PORT' or the path of a unix socket; may be "
        "repeated (default 127.0.0.1:8001)",
    )
    mode = parser.add_mutually_exclusive_group()
    mode.add_argument(
        "--no-proxy",
        dest="proxy",
        action="store_false",
        default=None,
        help="single-key mode: no proxy, no database, one key for all, on 127.0.0.1:8000 or --listen. No "
        "users, limits, fair queue or record of requests. What the database holds stays",
    )
    mode.add_argument(
        "--proxy", dest="proxy", action="store_true", default=None, help="back from single-key mode"
    )
    parser.add_argument(
        "--database",
        metavar="URL",
        help="PostgreSQL elsewhere: postgresql://USER@HOST:PORT/NAME?sslmode=verify-full, role and database "
        "must be there; or another cluster of this machine: postgresql:///NAME?port=5433 "
        "(default: the local one on port 5432, without a password)",
    )
    parser.add_argument(
        "--database-password-file",
        type=Path,
        metavar="FILE",
        help="its password is the first line of FILE; without this you are asked for it. It is kept in "
        "/etc/llmsvc/credentials, for root alone",
    )
    parser.add_argument(
        "--wheelhouse", type=Path, metavar="DIR", help="directory of wheels to use instead of the network"
    )
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="write the first user's key to FILE (mode 0600) too"
    )
    parser.add_argument(
        "--engine",
        choices=config_settings.ENGINES,
        help="what runs the models that do not say ENGINE themselves (default: as it is, at first "
        "llama-cpp-python)",
    )
    parser.add_argument(
        "--yes", action="store_true", help="ask nothing (it never does; for scripts that say so)"
    )
    # by packaging/install.sh, for 'llmsvc upgrade'
    parser.add_argument("--source", default="", help=argparse.SUPPRESS)
    parser.add_argument("--early", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(command=_install)


@contextlib.contextmanager
def alone() -> Iterator[None]:
    """One installation, upgrade or removal at a time; later ones wait."""
    from llmsvc import paths
    from llmsvc.library import files

    paths.INSTALL_LOCK.mkdir(mode=0o700, exist_ok=True)
    with files.locked(paths.INSTALL_LOCK, waiting="waiting for another 'llmsvc install' to end"):
        yield


def report(title: str) -> None:
    """A line of progress. Where nobody reads it any more (`| head`, a terminal that was closed), no line, and
    no failure: what is being put back must be, seen or unseen."""
    try:
        print(f"  {title}", file=sys.stderr, flush=True)
    except OSError:
        # nor is what could not be written to be tried again at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _install(arguments: argparse.Namespace) -> Result | int:
    from llmsvc.process import require_root

    require_root("installing")
    # the services, which are no root, must be able to read what we write
    os.umask(0o022)

    if arguments.early:
        from installer import early

        early.check_options(_options(arguments))
        return 0
    from installer import apply, facts, undo
    from installer.plan import Plan

    options = _options(arguments)
    password = _password(arguments, options.database)
    options = dataclasses.replace(options, database_password=password)
    if arguments.dry_run:
        return _dry_run(Plan(facts.gather(), options, completion.files()), recover=undo.Undo().pending)
    with alone():
        undo.recover(report)
        plan = Plan(facts.gather(), options, completion.files())
        done = apply.apply(plan, report)
    if done.actions:
        session.note("install", f"llmsvc {__version__}, {len(done.actions)} changes")
    return _told(plan, done)


def _options(arguments: argparse.Namespace) -> Options:
    """What was asked for, without what is secret."""
    from installer.options import Options, parse_database, parse_listen
    from llmsvc.errors import UsageError

    if arguments.model == "":
        raise UsageError("--model needs a value", hint="'llmsvc model catalog' has names")
    return Options(
        database=parse_database(arguments.database) if arguments.database is not None else None,
        model=arguments.model,
        listen=parse_listen(arguments.listen),
        proxy=arguments.proxy,
        wheelhouse=arguments.wheelhouse,
        key_file=arguments.key_file,
        source=arguments.source,
        engine=arguments.engine,
    )


def _password(arguments: argparse.Namespace, database: Database | None) -> str | None:
    """The database's password, from a file or a person; None where nothing new was said."""
    from llmsvc import paths
    from llmsvc.errors import UsageError

    if arguments.database_password_file:
        try:
            lines = arguments.database_password_file.read_text(encoding="utf-8").splitlines()
        except UnicodeDecodeError:
            raise UsageError(f"{arguments.database_password_file} is not UTF-8 text") from None
        return str(lines[0]) if lines else ""
    if database is None or database.local or paths.DATABASE_PASSWORD.exists():
        return None
    if not sys.stdin.isatty():
        raise UsageError(
            "the database's password is not known, and there is no terminal to ask on",
            hint="name a file that holds it by --database-password-file",
        )
    return getpass.getpass(f"Password of {database.user} on {database.host}: ")


def _dry_run(plan: Plan, *, recover: bool) -> Result:
    from installer import show

    plan.check()
    due = plan.pending()
    first_user = plan.first_user()
    if first_user and first_user.due_after(due):
        due.append(first_user)
    if not due and not recover:
        return Result({"pending": []}, "llmsvc is installed: nothing to do.")
    lines = [show.text(due), "", f"{len(due)} steps; nothing was changed."]
    if recover:
        lines.insert(
            0, "An installation before this one did not end: first, what it changed is put back. Then,"
        )
        lines.insert(1, "as far as one can tell now:")
    return Result({"pending": show.data(due), "recover": recover}, "\n".join(lines), PENDING)


def _told(plan: Plan, done: Done) -> Result:
    """What was done, for people and programs."""
    from installer import verify
    from llmsvc import paths
    from llmsvc.cli.welcome import welcome

    kept = [str(file.path) for file in plan.files if file.kept]
    data: dict[str, object] = {"actions": done.actions, "kept": kept, "answer": done.answer}
    data |= {"base_url": plan.config.told_url, "key": plan.key}
    lines = [f"Kept {file}, which you edited; the new text lies beside it." for file in kept]
    if kept:
        lines.append(
            "Changes of units are better kept in a drop-in, which nothing of ours touches: systemctl edit"
        )
    if plan.options.key_file and not plan.key:
        lines.append(
            f"{plan.options.key_file} is not written: there are users already, and keys are shown only "
            "once.\nFor another key: llmsvc key add admin"
        )
    if not paths.POLKIT_RULES.is_dir():
        lines.append(
            f"There is no {paths.POLKIT_RULES}: members of {paths.ADMIN_GROUP} need sudo like everybody else."
        )
    if done.answer is None:
        return Result(data, "\n".join([*lines, "llmsvc is installed: nothing to do."]))
    lines += [f"Asked the model: {verify.QUESTION}", f"It answered:     {' '.join(done.answer.split())}"]
    lines += [*_device(data), ""]
    if plan.key:
        lines += [
            "The first user is admin. This is its key, shown only now:"
            if plan.proxy
            else f"This is the key, which root finds in {paths.API_KEY} too:",
            "",
            welcome(plan.config.told_url, plan.key),
            "",
        ]
    lines.append(verify.reach(plan.config))
    return Result(data, "\n".join(lines))


def _device(data: dict[str, object]) -> list[str]:
    """Whether the GPU is really used, as the model inside its sandbox says."""
    from installer import facts, verify
    from llmsvc.errors import UnavailableError
    from llmsvc.systemd import manager

    name = manager.active_model()
    try:
        device = verify.device(name) if name else None
    except UnavailableError:
        return []
    data["device"] = device
    lines = [f"It ran on:       {device}"] if device else []
    if device == "CPU" and (found := facts.gpu_hardware()):
        lines.append(
            f"The {found} of this machine is not used: packaging/install.sh --accel WHAT builds for it."
        )
    return lines
