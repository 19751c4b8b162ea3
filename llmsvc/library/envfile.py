"""The text of a new models.d/NAME.env: working values, and comments that teach the rest."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

from llmsvc.library import gguf, progress
from llmsvc.library.settings import SETTINGS

MAX_N_CTX = 8192
"""Tokens of context that a new model gets at most: more takes memory at once, and is the admin's choice."""
_COMMENTED = (
    "N_GPU_LAYERS", "GPU", "REQUIRE_GPU", "N_THREADS", "N_THREADS_BATCH", "N_BATCH", "FLASH_ATTN", "TYPE_K",
    "TYPE_V", "USE_MMAP", "USE_MLOCK", "LOGITS_ALL", "EMBEDDING",
)  # fmt: skip
_DOCS = {setting.key: setting for setting in SETTINGS}


def text(
    name: str, model: Path, header: gguf.Header, *, origin: str, about: str, chat_format: str | None
) -> str:
    """The contents of models.d/NAME.env.

    :param about: one line about the model for people
    :param chat_format: what to set where the GGUF has no chat template; None if not known
    """
    trained = header.context_length
    lines = [
        f"# Settings of llama-server@{name}, read by it alone at its start. After a change:",
        f"#   sudo systemctl restart llama-server@{name}",
        "# Keys are those of llama_cpp.server in upper case, and a few of llmsvc.",
        "#",
        f"# {gguf.printable(about) or name}: {header.architecture}, "
        f"{header.quantization or 'unknown quantization'}, {progress.size(header.size)}",
        f"# From {gguf.printable(origin)}",
        "",
        *_comment("MODEL"),
        f"MODEL={_value(str(model))}",
        "",
        *_comment("N_CTX"),
        f"# The model was trained for {trained or 'an unknown number of'} tokens; more takes more memory.",
        f"N_CTX={min(trained or MAX_N_CTX, MAX_N_CTX)}",
        "",
        *_comment("CHAT_FORMAT"),
        *_chat_format(header, chat_format),
    ]
    for key in _COMMENTED:
        lines += ["", *_comment(key), f"#{key}={_DOCS[key].default}"]
    return "\n".join(lines) + "\n"


def _comment(key: str) -> list[str]:
    return textwrap.wrap(
        _DOCS[key].doc, width=100, initial_indent="# ", subsequent_indent="# ", break_on_hyphens=False
    )


def _chat_format(header: gguf.Header, chat_format: str | None) -> list[str]:
    if header.has_chat_template:
        return ["#CHAT_FORMAT="]
    without = "# This GGUF has no template of its own"
    if chat_format:
        return [f"{without}.", f"CHAT_FORMAT={chat_format}"]
    return [
        f"{without}: set the format that it was trained with (chatml, llama-3, gemma ...).",
        "#CHAT_FORMAT=",
    ]


def _value(path: str) -> str:
    if re.fullmatch(r"[\w./+@:,=-]+", path):
        return path
    return '"' + re.sub(r'([\\"`$])', r"\\\1", path) + '"'
