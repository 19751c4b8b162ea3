"""`llmsvc render`: the units and what belongs to them, as files to read, without touching the host."""

from __future__ import annotations

import argparse
from pathlib import Path

from llmsvc.cli.output import Result


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the command line."""
    parser = subparsers.add_parser(
        "render",
        help="write the units into a directory, to read them",
        description="Writes every file that 'llmsvc install' would write below /etc into DIR, as\n"
        "DIR/etc/systemd/system/auth-proxy.service and so on. Needs no root and no systemd, and\n"
        "changes nothing else.",
        epilog="examples:\n  llmsvc render /tmp/llmsvc\n"
        "  llmsvc render /tmp/llmsvc --gpu nvidia --systemd 249",
    )
    parser.add_argument("directory", type=Path, metavar="DIR", help="where to; made if it is missing")
    parser.add_argument(
        "--gpu",
        choices=("none", "nvidia", "amd", "drm"),
        help="for a machine with this kind of GPU (default: this machine's)",
    )
    parser.add_argument(
        "--systemd", type=int, metavar="VERSION", help="for this version of systemd (default: this machine's)"
    )
    parser.set_defaults(command=_render)


def _render(args: argparse.Namespace) -> Result:
    from installer import facts, render
    from llmsvc import config
    from llmsvc.errors import UsageError

    if args.systemd is not None and args.systemd < facts.OLDEST_SYSTEMD:
        raise UsageError(f"llmsvc needs systemd {facts.OLDEST_SYSTEMD} or later, not {args.systemd}")
    if args.directory.resolve() == Path("/"):
        raise UsageError("DIR is the root of this machine", hint="name another directory, to read them in")
    host = facts.Facts(
        systemd=args.systemd or facts.installed_systemd(),
        gpu=args.gpu or facts.gpu_kind(),
        release="",
    )
    written = []
    for path, (text, mode) in sorted(render.files(host, config.load()).items()):
        target = args.directory / path.relative_to("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        target.chmod(mode)
        written.append(target)
    return Result({"files": written}, "\n".join(map(str, written)))
