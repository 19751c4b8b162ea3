"""`llmsvc model`: the models of this machine, and which one runs. Here they are shown; model_get.py brings
new ones, model_change.py changes them."""

from __future__ import annotations

import argparse
import datetime
from typing import TYPE_CHECKING

from llmsvc.cli import model_change, model_get
from llmsvc.cli.output import Result, Table

if TYPE_CHECKING:
    from llmsvc.library.catalogue import Entry, File
    from llmsvc.library.fit import Estimate
    from llmsvc.library.memory import Room
    from llmsvc.library.sizing import Sizing
    from llmsvc.library.store import Model


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = subparsers.add_parser(
        "model",
        help="pull, list, switch, schedule and remove models",
        description="The models of this machine. Each is an instance llama-server@NAME with settings in "
        "/etc/llmsvc/models.d/NAME.env; one of them runs at a time.",
        epilog="example:\n  llmsvc model catalog --fits\n  sudo llmsvc model pull llama3.2-3b\n"
        "  sudo llmsvc model use llama3.2-3b",
    )
    verbs = parser.add_subparsers(metavar="COMMAND", required=True)
    _add_list_parser(verbs)
    _add_catalog_parser(verbs)
    model_get.add_parsers(verbs)
    _add_show_parser(verbs)
    model_change.add_parsers(verbs)


# ---------------------------------------------------------------------------------------------------------
# list


def _add_list_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "list",
        help="list the installed models",
        description="Lists the installed models: size and quantization of the file, context, memory, whether "
        "it fits into what is free now, which one starts at boot and which one runs.",
        epilog="example:\n  llmsvc model list --json",
    )
    parser.set_defaults(command=_list)


def _list(args: argparse.Namespace) -> Result:
    from llmsvc.library import memory, store
    from llmsvc.library.progress import size

    room = memory.room()
    found = [(model, *_fit(model, room)) for model in store.models()]
    headers = [
        *("name", "file", "size", "quantization", "context", "memory", "fits", "default", "active"),
        "last used",
    ]
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
            "now" if m.active else _moment(m.last_used),
        ]
        for m, wanted, fitting in found
    ]
    if any(m.problem for m, *_ in found):
        headers.append("problem")
        for row, (m, *_) in zip(rows, found, strict=True):
            row.append(m.problem or "")
    table = Table(headers, rows, "no models; 'sudo llmsvc model pull smollm2' installs a first one")
    return Result([data(m) | _fit_data(wanted, fitting) for m, wanted, fitting in found], table)


def _moment(epoch: float | None) -> datetime.datetime | None:
    return None if epoch is None else datetime.datetime.fromtimestamp(int(epoch)).astimezone()


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


def data(model: Model) -> dict[str, object]:
    """A model as --json shows it."""
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
        "last_used": _moment(model.last_used),
        "problem": model.problem,
    }


# ---------------------------------------------------------------------------------------------------------
# catalog


def _add_catalog_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "catalog",
        help="list the models that have a short name",
        description="Lists the models that have a short name. MEMORY is what the usual quantization needs "
        "with the context that it would get here, weights included.",
        epilog="example:\n  llmsvc model catalog --fits\n  llmsvc model catalog mistral",
    )
    parser.add_argument(
        "name", nargs="?", metavar="NAME", help="all quantizations of one model, and what it is good for"
    )
    parser.add_argument(
        "--fits", action="store_true", help="only what fits into the memory of this machine now"
    )
    parser.set_defaults(command=_catalog)


def _catalog(args: argparse.Namespace) -> Result:
    from llmsvc.library import catalogue, memory, sizing, store
    from llmsvc.library.progress import size

    room = memory.room()
    installed = set(store.names())
    entries = [catalogue.lookup(args.name)] if args.name else list(catalogue.load().values())
    found = [
        (entry, file, sizing.of_catalogue(entry, file, room))
        for entry in entries
        for file in entry.files.values()
    ]
    if args.fits:
        found = [row for row in found if row[2]]
    shown = found if args.name else _one_each(found)
    headers = ("name", "model", "size", "memory", "context", "fits", "licence", "gated", "installed")
    rows = [
        (
            _called(entry, file),
            entry.title,
            size(file.size),
            size(sized.needed) if sized else None,
            sized.n_ctx if sized else None,
            sized is not None,
            entry.licence,
            entry.gated,
            _called(entry, file).replace(":", "-") in installed,
        )
        for entry, file, sized in shown
    ]
    empty = "nothing fits into the memory that is free now; 'llmsvc model catalog' lists all"
    table = Table(headers, rows, empty, title=entries[0].notes if args.name else "")
    by_entry = [
        _entry(entry, [row[1:] for row in found if row[0] is entry], installed)
        for entry in entries
        if any(row[0] is entry for row in found)
    ]
    return Result(by_entry, table)


def _one_each(found: list[tuple[Entry, File, Sizing | None]]) -> list[tuple[Entry, File, Sizing | None]]:
    """The usual quantization of each model; where that one was left out, the largest that is there."""
    best = {entry.name: (entry, file, sized) for entry, file, sized in found}
    usual = {row[0].name: row for row in found if row[1].quantization == row[0].quantization}
    return list((best | usual).values())


def _called(entry: Entry, file: File) -> str:
    """What to pull it by."""
    usual = file.quantization == entry.quantization
    return entry.name if usual else f"{entry.name}:{file.quantization.lower()}"


def _entry(entry: Entry, files: list[tuple[File, Sizing | None]], installed: set[str]) -> dict[str, object]:
    return {
        "name": entry.name,
        "title": entry.title,
        "parameters": entry.parameters,
        "quantization": entry.quantization,
        "size": entry.size,
        "context": entry.context,
        "licence": entry.licence,
        "gated": entry.gated,
        "embedding": entry.embedding,
        "notes": entry.notes,
        "source": str(entry.source),
        "installed": entry.name in installed,
        "files": [
            {
                "name": _called(entry, file),
                "quantization": file.quantization,
                "size": file.size,
                "source": str(file.source),
                "fits": sized is not None,
                "n_ctx": sized.n_ctx if sized else None,
                "memory_needed": sized.needed if sized else None,
            }
            for file, sized in files
        ],
    }


# ---------------------------------------------------------------------------------------------------------
# show


def _add_show_parser(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = verbs.add_parser(
        "show",
        help="show all that is known of a model, and its settings",
        description="Shows all that is known of a model: file, origin, sha256, what its header says, what "
        "memory it needs; and each setting, with the file and line that it comes from.",
        epilog="example:\n  llmsvc model show gemma3",
    )
    parser.add_argument("name", metavar="MODEL", help="the model, as 'llmsvc model list' calls it")
    parser.set_defaults(command=_show)


def _show(args: argparse.Namespace) -> Result:
    from llmsvc.library import memory, records, store
    from llmsvc.library.progress import size
    from llmsvc.systemd import schedule

    model = store.model(args.name)
    header = model.header
    record = records.read(model.file) if model.file else None
    own = _settings(args.name)
    wanted, fitting = _fit(model, memory.room(args.name))
    times = schedule.get(args.name).times
    told = data(model) | {
        **_fit_data(wanted, fitting),
        "title": header.name if header else None,
        "layers": header.block_count if header else None,
        "chat_template": header.has_chat_template if header else None,
        "origin": record.origin if record else None,
        "commit": record.commit or None if record else None,
        "sha256": record.sha256 if record else None,
        "schedule": times,
        "settings": own,
    }
    human = {
        "model": told["title"],
        "file": model.file,
        "origin": told["origin"],
        "commit": told["commit"],
        "sha256": told["sha256"],
        "size": size(header.size) if header else None,
        "architecture": told["architecture"],
        "parameters": f"{header.parameters / 1e6:.0f} million" if header else None,
        "layers": told["layers"],
        "quantization": told["quantization"],
        "context": f"{model.n_ctx} of {header.context_length or '?'} tokens" if header else None,
        "chat template": told["chat_template"],
        "memory": f"{size(wanted.memory)}, {size(wanted.needed)} with the whole context in use"
        if wanted
        else None,
        "fits": fitting,
        "default": model.default,
        "active": model.active,
        "last used": "now" if model.active else told["last_used"],
        "schedule": ", ".join(times) or None,
        "problem": model.problem,
    }
    rows: list[tuple[str, object, object]] = [
        (key, value, "") for key, value in human.items() if value is not None
    ]
    rows += [(key, one["value"], one["source"]) for key, one in own.items() if one["value"] is not None]
    return Result(told, Table(("what", args.name, "from"), rows))


def _settings(name: str) -> dict[str, dict[str, object]]:
    """Every setting and where its value comes from; what neither the file nor a default says is None."""
    from llmsvc.errors import SettingError
    from llmsvc.library import settings

    try:
        loaded = settings.load(name)
    except SettingError:
        return {}
    return {key: {"value": loaded[key], "source": loaded.source(key)} for key in loaded.values}
