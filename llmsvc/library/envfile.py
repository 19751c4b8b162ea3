"""The text of models.d/NAME.env: a new one, with working values and comments that teach; a changed one."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

from llmsvc.library import gguf, progress
from llmsvc.library.settings import SETTINGS
from llmsvc.library.sizing import AGENTS, MOST, Sizing

_COMMENTED = (
    "N_GPU_LAYERS", "GPU", "REQUIRE_GPU", "N_THREADS", "N_THREADS_BATCH", "N_BATCH", "FLASH_ATTN", "TYPE_K",
    "TYPE_V", "USE_MMAP", "USE_MLOCK", "LOGITS_ALL", "EMBEDDING", "ENGINE", "RERANK",
)  # fmt: skip
_DOCS = {setting.key: setting for setting in SETTINGS}


def text(
    name: str,
    model: Path,
    header: gguf.Header,
    sizing: Sizing,
    *,
    origin: str,
    about: str,
    chat_format: str | None,
) -> str:
    """The contents of models.d/NAME.env.

    :param about: one line about the model for people
    :param chat_format: what to set where the GGUF has no chat template; None if not known
    """
    lines = [
        f"# Settings of llama-server@{name}, read by it alone at its start. After a change:",
        f"#   sudo systemctl restart llama-server@{name}",
        f"# 'sudo llmsvc model set {name} KEY=VALUE' changes one and checks it; KEY= alone goes back to the",
        "# default.",
        "# Keys are those of llama_cpp.server in upper case, and a few of llmsvc.",
        "#",
        f"# {gguf.printable(about) or name}: {header.architecture}, "
        f"{header.quantization or 'unknown quantization'}, {progress.size(header.size)}",
        f"# From {gguf.printable(origin)}",
        "",
        *_comment("MODEL"),
        f"MODEL={value(str(model))}",
        "",
        *_comment("N_CTX"),
        *_about_context(header, sizing),
        f"N_CTX={sizing.n_ctx}",
        "",
        *_comment("CHAT_FORMAT"),
        *_chat_format(header, chat_format),
    ]
    own = {}
    if sizing.n_gpu_layers is not None:
        own["N_GPU_LAYERS"] = str(sizing.n_gpu_layers)
    if header.embeds:
        own["EMBEDDING"] = "1"
    if header.ranks:
        # the only engine that can
        own |= {"ENGINE": "native", "RERANK": "1"}
    for key in _COMMENTED:
        lines += ["", *_comment(key), f"{key}={own[key]}" if key in own else f"#{key}={_DOCS[key].default}"]
    return "\n".join(lines) + "\n"


def _comment(key: str) -> list[str]:
    return _wrapped(_DOCS[key].doc)


def _wrapped(about: str) -> list[str]:
    return textwrap.wrap(
        about, width=100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _about_context(header: gguf.Header, sizing: Sizing) -> list[str]:
    trained = header.context_length
    about = f"The model was trained for {trained or 'an unknown number of'} tokens. "
    if not sizing.fits:
        about += "It did not fit into the memory that was free when it was installed. "
    elif sizing.needed:
        about += f"With {sizing.n_ctx} it needs {progress.size(sizing.needed)} of memory, which was free. "
    if sizing.n_ctx < min(trained or MOST, MOST):
        about += "More takes more memory. "
    if sizing.n_ctx < AGENTS and not header.only_reads:
        about += f"Coding agents need {AGENTS}."
    return _wrapped(about.strip())


def _chat_format(header: gguf.Header, chat_format: str | None) -> list[str]:
    if header.has_chat_template or header.only_reads:
        return ["#CHAT_FORMAT="]
    without = "# This GGUF has no template of its own"
    if chat_format:
        return [f"{without}.", f"CHAT_FORMAT={chat_format}"]
    return [
        f"{without}: set the format that it was trained with (chatml, llama-3, gemma ...).",
        "#CHAT_FORMAT=",
    ]


def value(text: str) -> str:
    """A value as it stands in an env file, in quotes where it needs them."""
    if re.fullmatch(r"[\w./+@:,=-]*", text):
        return text
    return '"' + re.sub(r'([\\"`$])', r"\\\1", text) + '"'


def changed(before: str, values: Mapping[str, str]) -> str:
    """The text with some values set, each where the key stands or is shown; an empty one is commented out."""
    lines = before.split("\n")
    for key, wanted in values.items():
        set_here = [i for i, line in enumerate(lines) if re.match(rf"\s*{re.escape(key)}\s*=", line)]
        shown = [i for i, line in enumerate(lines) if re.match(rf"\s*[#;]\s*{re.escape(key)}\s*=", line)]
        # the last of several lines counts, and none of those before it may come back with the next change
        for place in set_here[:-1]:
            lines[place] = f"#{lines[place].lstrip()}"
        if not wanted:
            if set_here:
                lines[set_here[-1]] = f"#{key}={_DOCS[key].default if key in _DOCS else ''}"
            continue
        line = f"{key}={value(wanted)}"
        places = [*shown[-1:], *set_here[-1:]]
        if not places:
            end = len(lines) - 1 if lines[-1] == "" else len(lines)
            lines[end:end] = ["", *(_comment(key) if key in _DOCS else []), line]
        else:
            lines[places[-1]] = line
    return "\n".join(lines)
