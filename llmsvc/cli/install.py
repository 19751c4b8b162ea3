"""`llmsvc install`: makes this host a working LLM server, and shows that it is one."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from llmsvc import __version__
from llmsvc.cli import completion, session
from llmsvc.cli.output import Result


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the command line."""
    parser = subparsers.add_parser(
        "install",
        help="set everything up, or bring it up to date",
        description="Sets everything up: users, directories, database, units, the first model and the first\n"
        "user; starts it and asks the model a question. Run it again at any time: it changes only\n"
        "what is not as it should be. What you edited stays: units are changed by drop-ins\n"
        "(systemctl edit), settings in /etc/llmsvc/config.env.",
        epilog="examples:\n"
        "  sudo llmsvc install\n"
        "  sudo llmsvc install --model mistral\n"
        "  sudo llmsvc install --model /data/qwen2.5-7b-instruct-q4_k_m.gguf --listen 0.0.0.0:8001",
    )
    parser.add_argument(
        "--model",
        metavar="WHAT",
        help="model to install, start now and at boot: a name of 'llmsvc model catalog', a .gguf file, or "
        "OWNER/REPO/FILE.gguf on Hugging Face (default: what is the default model already, else smollm2)",
    )
    parser.add_argument(
        "--listen", metavar="ADDR:PORT", help="where clients connect (default 127.0.0.1:8001)"
    )
    parser.add_argument(
        "--wheelhouse", type=Path, metavar="DIR", help="directory of wheels to use instead of the network"
    )
    parser.add_argument(
        "--key-file", type=Path, metavar="FILE", help="write the first user's key to FILE (mode 0600) too"
    )
    parser.add_argument(
        "--yes", action="store_true", help="ask nothing (it never does; for scripts that say so)"
    )
    parser.set_defaults(command=_install)


def _install(arguments: argparse.Namespace) -> Result:
    from llmsvc.process import require_root

    require_root("installing")
    # the services, which are no root, must be able to read what we write
    os.umask(0o022)

    from installer import apply, facts, verify
    from installer.options import Options, parse_listen
    from installer.plan import Plan
    from llmsvc import paths
    from llmsvc.cli.welcome import welcome
    from llmsvc.library import files

    options = Options(
        model=arguments.model,
        listen=parse_listen(arguments.listen) if arguments.listen else None,
        wheelhouse=arguments.wheelhouse,
        key_file=arguments.key_file,
    )
    paths.INSTALL_LOCK.mkdir(mode=0o700, exist_ok=True)
    with files.locked(paths.INSTALL_LOCK, waiting="waiting for another 'llmsvc install' to end"):
        plan = Plan(facts.gather(), options, completion.files())
        done = apply.apply(plan, lambda title: print(f"  {title}", file=sys.stderr, flush=True))
    if done.actions:
        session.note("install", f"llmsvc {__version__}, {len(done.actions)} changes")
    kept = [str(file.path) for file in plan.files if file.kept]
    data = {"actions": done.actions, "kept": kept, "answer": done.answer}
    data |= {"base_url": plan.config.base_url, "key": plan.key}
    lines = [f"Kept {file}, which you edited; the new text lies beside it." for file in kept]
    if kept:
        lines.append(
            "Changes of units are better kept in a drop-in, which nothing of ours touches: systemctl edit"
        )
    if options.key_file and not plan.key:
        lines.append(
            f"{options.key_file} is not written: there are users already, and keys are shown only once.\n"
            "For another key: llmsvc key add admin"
        )
    if not paths.POLKIT_RULES.is_dir():
        lines.append(
            f"There is no {paths.POLKIT_RULES}: members of {paths.ADMIN_GROUP} need sudo like everybody else."
        )
    if done.answer is None:
        return Result(data, "\n".join([*lines, "llmsvc is installed: nothing to do."]))
    lines += [f"Asked the model: {verify.QUESTION}", f"It answered:     {' '.join(done.answer.split())}", ""]
    if plan.key:
        lines += [
            "The first user is admin. This is its key, shown only now:",
            "",
            welcome(plan.config.base_url, plan.key),
            "",
        ]
    lines.append(verify.reach(plan.config))
    return Result(data, "\n".join(lines))
