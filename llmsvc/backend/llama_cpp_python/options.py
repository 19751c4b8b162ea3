"""Turns the settings of a models.d file into those of llama_cpp.server, with our defaults."""

from __future__ import annotations

from typing import Any

from llmsvc.backend.llama_cpp_python import internals
from llmsvc.library.gguf import Header
from llmsvc.library.settings import DEFAULT_N_CTX, OURS, ModelSettings


def engine_settings(settings: ModelSettings, header: Header) -> dict[str, Any]:
    """The keyword arguments of llama_cpp.server's ModelSettings."""
    values = {
        key.lower(): value for key, value in settings.values.items() if key not in OURS and value is not None
    }
    values |= {"model": str(settings.model), "model_alias": settings.name, "verbose": False}
    if "lora_path" in values:
        values["lora_path"] = str(values["lora_path"])
    values.setdefault("n_ctx", min(header.context_length or DEFAULT_N_CTX, DEFAULT_N_CTX))
    offload = settings["GPU"] != "none" and internals.module("llama_cpp").llama_supports_gpu_offload()
    values.setdefault("n_gpu_layers", -1 if offload else 0)
    values["n_threads"] = settings.threads
    values.setdefault("n_threads_batch", settings.threads)
    if settings["EMBEDDING"]:
        # an input is read as one batch, and what does not fit into it would be cut off
        context = values["n_ctx"] or header.context_length or DEFAULT_N_CTX
        values |= {key: context for key in ("n_batch", "n_ubatch") if key.upper() not in settings.lines}
    return values


def check_chat_format(settings: ModelSettings) -> None:
    """Refuses a CHAT_FORMAT that llama_cpp does not know, before the model is read.

    :raises SettingError: it does not
    """
    wanted = settings["CHAT_FORMAT"]
    if wanted and wanted not in internals.chat_formats() and not wanted.startswith("chat_template."):
        allowed = ", ".join(sorted(internals.chat_formats()))
        raise settings.error("CHAT_FORMAT", f"must be one of {allowed}, not {wanted[:40]!r}")
