"""`llmsvc alert KIND`: what an alert says, in one line; run by llmsvc-alert@KIND.service."""

from __future__ import annotations

import argparse
import contextlib
import stat
import time
from collections.abc import Callable

from llmsvc.cli.output import Result, printable


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the command line."""
    parser = subparsers.add_parser(
        "alert",
        help="print what an alert says (run by llmsvc-alert@KIND.service)",
        description="Prints one line about the last alert of this kind: what happened, and where to look.",
        epilog="example, in a drop-in of llmsvc-alert@.service: llmsvc alert %i | mail -s %i root",
    )
    parser.add_argument("kind", choices=sorted(_TEXTS), metavar="KIND", help=", ".join(sorted(_TEXTS)))
    parser.add_argument(
        "--journal",
        action="store_true",
        help="write it to the journal, with priority crit and LLM_ALERT=KIND",
    )
    parser.set_defaults(command=_alert)


def _alert(arguments: argparse.Namespace) -> Result:
    text = _TEXTS[arguments.kind]()
    if arguments.journal:
        from llmsvc.systemd.journal import Journal

        Journal("llmsvc-alert").send(text, priority=2, fields={"LLM_ALERT": arguments.kind})
        return Result(None, "")
    return Result({"kind": arguments.kind, "text": text}, text)


def _rollback() -> str:
    from llmsvc.systemd import rollback

    last = rollback.last()
    if last is None or last.to is None:
        return "A model failed and another one was started. See: llmsvc status"
    return (
        f"The model {last.failed} failed ({last.reason}); {last.to} was started instead. "
        f"See: journalctl -u llama-server@{last.failed}"
    )


def _no_model() -> str:
    from llmsvc.systemd import rollback

    last = rollback.last()
    if last is None:
        return "No model runs, and none could be started. See: llmsvc status"
    again = ""
    if last.to and last.retry_at:
        when = time.strftime("%H:%M:%S", time.localtime(last.retry_at))
        again = f" {last.to} is tried again at {when}, and so on until one starts."
    return (
        f"No model runs: {last.failed} failed ({last.reason}), and no other one could be started.{again} "
        "See: llmsvc status; journalctl -u 'llama-server@*'"
    )


def _gpu_lost() -> str:
    from llmsvc import paths

    said = ""
    # the backend, which may be anybody's by then, made this file
    with contextlib.suppress(OSError):
        if stat.S_ISREG(paths.GPU_LOST.lstat().st_mode):
            with paths.GPU_LOST.open(encoding="utf-8", errors="replace") as words:
                said = printable(" ".join(words.read(300).split()))
    return (
        f"The GPU was lost while a model ran{f' ({said})' if said else ''}; the model is started again. "
        "See: dmesg; nvidia-smi; journalctl -u 'llama-server@*'"
    )


def _database_down() -> str:
    return (
        "PostgreSQL does not answer: requests are served and counted on disk, users and keys cannot change. "
        "See: systemctl status postgresql; journalctl -u auth-proxy"
    )


def _spool_filling() -> str:
    return (
        "Many requests wait on disk to be written to PostgreSQL, in /var/lib/llmsvc/proxy. "
        "See: systemctl status postgresql; llmsvc status; df /var/lib/llmsvc/proxy"
    )


_TEXTS: dict[str, Callable[[], str]] = {
    "rollback": _rollback,
    "no-model": _no_model,
    "gpu-lost": _gpu_lost,
    "database-down": _database_down,
    "spool-filling": _spool_filling,
}
"""What each kind of alert says; the kinds that the polkit rule lets the proxy send."""
