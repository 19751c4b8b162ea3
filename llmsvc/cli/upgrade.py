"""`llmsvc upgrade`: installs what the checkout holds by now that this release came from."""

from __future__ import annotations

import argparse
from pathlib import Path

from llmsvc.cli.output import Result


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the command line."""
    parser = subparsers.add_parser(
        "upgrade",
        help="install the release that a newer checkout holds",
        description="Runs packaging/install.sh of the checkout that this release came from, or of CHECKOUT:\n"
        "a new environment beside the old one, a backup of the database before its migrations,\n"
        "the switch, and a question to the model. Requests wait meanwhile, none is lost. If\n"
        "anything fails, the old release is back, and so is its database.",
        epilog="examples:\n"
        "  git -C /usr/src/llmsvc pull && sudo llmsvc upgrade\n"
        "  sudo llmsvc upgrade --dry-run\n"
        "  sudo llmsvc upgrade /usr/src/llmsvc-0.2.0 --wheelhouse /media/usb/wheelhouse",
    )
    parser.add_argument(
        "checkout", nargs="?", type=Path, metavar="CHECKOUT", help="default: where this release came from"
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="change nothing; print every change in the order of execution"
    )
    parser.add_argument(
        "--wheelhouse", type=Path, metavar="DIR", help="directory of wheels to use instead of the network"
    )
    parser.set_defaults(command=_upgrade)


def _upgrade(args: argparse.Namespace) -> Result:
    from installer.manifest import Manifest
    from llmsvc.errors import NotFoundError
    from llmsvc.process import become, require_root

    require_root("upgrading")
    source = args.checkout or Path(Manifest().source or "/")
    script = source.absolute() / "packaging" / "install.sh"
    if not script.is_file():
        raise NotFoundError(
            f"there is no {script}" if args.checkout else "the checkout that this release came from is gone",
            hint="name one: llmsvc upgrade DIRECTORY. A release that came from a package is upgraded by apt",
        )
    argv = [str(script)]
    argv += ["--dry-run"] if args.dry_run else []
    argv += ["--json"] if getattr(args, "json", False) else []
    argv += ["--wheelhouse", str(args.wheelhouse.absolute())] if args.wheelhouse else []
    become(argv, keep_env=("PIP_CONFIG_FILE", "PIP_INDEX_URL", "http_proxy", "https_proxy", "no_proxy"))
