"""`llmsvc model`: the models of this machine, and which one runs."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from llmsvc import paths
from llmsvc.cli import service, session, switching
from llmsvc.cli.output import Result, Table
from llmsvc.errors import DeniedError
from llmsvc.process import require_root

if TYPE_CHECKING:
    from llmsvc.library.catalogue import Entry
    from llmsvc.library.fit import Estimate
    from llmsvc.library.memory import Room
    from llmsvc.library.store import Model


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "model",
        help="add, list, switch and remove models",
        description="The models of this machine. Each is an instance llama-server@NAME with settings in "
        "/etc/llmsvc/models.d/NAME.env; one of them runs at a time.",
        epilog="example:\n  llmsvc model catalog\n  sudo llmsvc model add gemma3\n"
        "  sudo llmsvc model use gemma3",
    )
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_add_parser(verbs)
    for verb, command, text in (
        ("list", _list, "list the installed models"),
        ("catalog", _catalog, "list the models that have a short name"),
    ):
        one = verbs.add_parser(verb, help=text, epilog=f"example:\n  llmsvc model {verb} --json")
        one.set_defaults(command=command)
    for verb, command, text, sudo in (
        ("show", _show, "show all that is known of a model, and its settings", ""),
        ("use", _use, "switch to a model now, and start it at boot from now on", "sudo "),
        (
            "remove",
            _remove,
            "remove a model that does not run, and its file unless another needs it",
            "sudo ",
        ),
    ):
        one = verbs.add_parser(
            verb,
            help=text,
            description=f"{text[0].upper()}{text[1:]}.",
            epilog=f"example:\n  {sudo}llmsvc model {verb} gemma3",
        )
        one.add_argument("name", metavar="MODEL", help="the model, as 'llmsvc model list' calls it")
        if verb == "use":
            service.add_force(one)
        one.set_defaults(command=command)


def _add_add_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    add = verbs.add_parser(
        "add",
        help="install a model from the catalogue, a file or the Hugging Face hub",
        description="Fetches a model, checks it and makes it an instance. It is there whole or not at all, "
        "and what runs goes on. HF_ENDPOINT, proxy variables and pip's settings are honoured.",
        epilog="example:\n  sudo llmsvc model add tinyllama\n"
        "  sudo llmsvc model add /data/qwen2.5-7b-q4_k_m.gguf --name qwen\n"
        "  sudo llmsvc model add bartowski/Qwen2.5-7B-Instruct-GGUF/Qwen2.5-7B-Instruct-Q4_K_M.gguf",
    )
    add.add_argument(
        "what",
        metavar="WHAT",
        help="name in 'llmsvc model catalog', path of a .gguf, or OWNER/REPO/FILE.gguf",
    )
    add.add_argument(
        "--name", help="what to call it (default: the catalogue's name, or made from the file's)"
    )
    how = add.add_mutually_exclusive_group()
    how.add_argument(
        "--copy",
        dest="how",
        action="store_const",
        const="copy",
        default="auto",
        help="copy a local file (default: a hard link where that works, which needs no space)",
    )
    how.add_argument(
        "--link", dest="how", action="store_const", const="link", help="link a local file, or fail"
    )
    add.add_argument(
        "--wheelhouse", type=Path, metavar="DIR", help="take wheels from DIR instead of the network"
    )
    add.set_defaults(command=_add)


def _list(args: argparse.Namespace) -> Result:
    from llmsvc.library import memory, store
    from llmsvc.library.progress import size

    room = memory.room()
    found = [(model, *_fit(model, room)) for model in store.models()]
    headers = ["name", "file", "size", "quantization", "context", "memory", "fits", "default", "active"]
    rows: list[list[object]] = [
        [
            m.name,
            m.file.name if m.file else None,
            size(m.header.size) if m.header else None,
            m.header.quantization if m.header else None,
            m.n_ctx,
            size(wanted.memory) if wanted else None,
            fitting,
            m.default,
            m.active,
        ]
        for m, wanted, fitting in found
    ]
    if any(m.problem for m, *_ in found):
        headers.append("problem")
        for row, (m, *_) in zip(rows, found, strict=True):
            row.append(m.problem or "")
    table = Table(headers, rows, "no models; 'sudo llmsvc model add smollm2' installs a first one")
    return Result([_data(m) | _fit_data(wanted, fitting) for m, wanted, fitting in found], table)


def _fit(model: Model, room: Room) -> tuple[Estimate | None, bool | None]:
    """What it takes, and whether there is room for it now; None and None where that cannot be known."""
    from llmsvc.library import fit, settings

    if model.header is None:
        return None, None
    wanted = fit.estimate(settings.load(model.name), model.header)
    return wanted, model.active or fit.fits(wanted, room)


def _fit_data(wanted: Estimate | None, fitting: bool | None) -> dict[str, object]:
    return {
        "memory": wanted.memory if wanted else None,
        "memory_needed": wanted.needed if wanted else None,
        "memory_needed_gpu": wanted.needed_gpu if wanted else None,
        "fits": fitting,
    }


def _data(model: Model) -> dict[str, object]:
    header = model.header
    return {
        "name": model.name,
        "file": model.file,
        "size": header.size if header else None,
        "architecture": header.architecture if header else None,
        "quantization": header.quantization if header else None,
        "parameters": header.parameters if header else None,
        "context": model.n_ctx,
        "context_trained": header.context_length if header else None,
        "default": model.default,
        "active": model.active,
        "problem": model.problem,
    }


def _catalog(args: argparse.Namespace) -> Result:
    from llmsvc.library import catalogue, store
    from llmsvc.library.progress import size

    installed = set(store.names())
    entries = list(catalogue.load().values())
    rows = [
        (e.name, e.title, size(e.size), e.quantization, e.context, e.licence, e.name in installed)
        for e in entries
    ]
    headers = ("name", "model", "size", "quantization", "context", "licence", "installed")
    return Result([_entry(e, e.name in installed) for e in entries], Table(headers, rows))


def _entry(entry: Entry, installed: bool) -> dict[str, object]:
    return {
        "name": entry.name,
        "title": entry.title,
        "parameters": entry.parameters,
        "quantization": entry.quantization,
        "size": entry.size,
        "context": entry.context,
        "licence": entry.licence,
        "notes": entry.notes,
        "source": str(entry.source),
        "installed": installed,
    }


def _show(args: argparse.Namespace) -> Result:
    from llmsvc.errors import SettingError
    from llmsvc.library import files, memory, settings, store
    from llmsvc.library.progress import size

    model = store.model(args.name)
    header = model.header
    record = files.record(model.file) if model.file else None
    try:
        loaded = settings.load(args.name)
        own = {key: {"value": loaded[key], "source": loaded.source(key)} for key in loaded.lines}
    except SettingError:
        own = {}
    wanted, fitting = _fit(model, memory.room(args.name))
    data = _data(model) | {
        **_fit_data(wanted, fitting),
        "title": header.name if header else None,
        "layers": header.block_count if header else None,
        "chat_template": header.has_chat_template if header else None,
        "origin": record.origin if record else None,
        "sha256": record.sha256 if record else None,
        "settings": own,
    }
    human = {
        "model": data["title"],
        "file": model.file,
        "origin": data["origin"],
        "sha256": data["sha256"],
        "size": size(header.size) if header else None,
        "architecture": data["architecture"],
        "parameters": f"{header.parameters / 1e6:.0f} million" if header else None,
        "layers": data["layers"],
        "quantization": data["quantization"],
        "context": f"{model.n_ctx} of {header.context_length or '?'} tokens" if header else None,
        "chat template": data["chat_template"],
        "memory": f"{size(wanted.memory)}, {size(wanted.needed)} with the whole context in use"
        if wanted
        else None,
        "fits": fitting,
        "default": model.default,
        "active": model.active,
        "problem": model.problem,
    } | {key: f"{value['value']}  ({value['source']})" for key, value in own.items()}
    rows = [(key, value) for key, value in human.items() if value is not None]
    return Result(data, Table(("what", args.name), rows))


def _add(args: argparse.Namespace) -> Result:
    require_root("adding a model")
    from llmsvc.library import store

    installed = store.add(
        args.what,
        name=args.name,
        wheelhouse=args.wheelhouse,
        config=session.configuration(),
        how=args.how,
    )
    _daemon_reload()
    if installed.changed:
        session.note("model add", installed.name)
    model = store.model(installed.name)
    done = "is installed" if installed.changed else "is installed already"
    linked = "\nthe file is a hard link: do not change the original in place" if installed.linked else ""
    return Result(
        _data(model) | {"changed": installed.changed, "linked": installed.linked},
        f"model {model.name} {done}: {installed.file}{linked}\n"
        f"its settings: {store.env_file(model.name)}\n"
        f"switch to it: sudo llmsvc model use {model.name}",
    )


def _use(args: argparse.Namespace) -> Result:
    try:
        require_root("choosing the default model")
    except DeniedError as error:
        error.hint = f"{error.hint}; members of {paths.ADMIN_GROUP} may 'llmsvc start {args.name}'"
        raise
    from llmsvc.library import store
    from llmsvc.systemd import manager

    try:
        switching.start(args.name, force=args.force, quiet=getattr(args, "json", False))
    except switching.LeftError as error:
        error.hint = f"{error.hint}; the default model is as before: run it again to change that"
        raise
    # Only now: a model that never got ready must not be what the next boot, or a rollback, starts.
    changed = store.set_default(args.name)
    if changed:
        manager.daemon_reload()
    session.note("model use", args.name)
    return Result(
        _data(store.model(args.name)) | {"changed": changed},
        f"model {args.name} answers now, and is what starts at boot",
    )


def _remove(args: argparse.Namespace) -> Result:
    require_root("removing a model")
    from llmsvc.library import store
    from llmsvc.library.progress import size

    removed = store.remove(args.name, session.configuration())
    _daemon_reload()
    session.note("model remove", removed.name)
    files = ", ".join(file.name for file in removed.files) or "no file"
    return Result(removed, f"model {removed.name} is removed: {files}, {size(removed.freed)} free again")


def _daemon_reload() -> None:
    """Has our generator run, where systemd runs at all (sd_booted(3))."""
    if Path("/run/systemd/system").is_dir():
        from llmsvc.systemd import manager

        manager.daemon_reload()
