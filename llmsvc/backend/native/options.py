"""Turns the settings of a models.d file into llama.cpp's parameters, with our defaults."""

from __future__ import annotations

import json
from typing import Any

from llmsvc.library.gguf import Header
from llmsvc.library.settings import DEFAULT_N_CTX, NATIVE_CPU_BATCH, ModelSettings

_ALL_LAYERS = 9999
_TRACE, _WARNINGS = 4, 2
_MLOCK, _MMAP = 2, 1
_MEAN, _RANK = 1, 4
_HTTP_THREADS = 8

# by the names of settings; what is not set keeps llama.cpp's default
_SAME = {
    "TYPE_K": "cache_type_k", "TYPE_V": "cache_type_v", "SPLIT_MODE": "split_mode", "MAIN_GPU": "main_gpu",
    "TENSOR_SPLIT": "tensor_split", "ROPE_SCALING_TYPE": "rope_scaling_type",
    "ROPE_FREQ_BASE": "rope_freq_base", "ROPE_FREQ_SCALE": "rope_freq_scale",
    "YARN_EXT_FACTOR": "yarn_ext_factor", "YARN_ATTN_FACTOR": "yarn_attn_factor",
    "YARN_BETA_FAST": "yarn_beta_fast", "YARN_BETA_SLOW": "yarn_beta_slow", "YARN_ORIG_CTX": "yarn_orig_ctx",
    "LAST_N_TOKENS_SIZE": "sampling.penalty_last_n", "CACHE_RAM": "cache_ram_mib", "SWA_FULL": "swa_full",
}  # fmt: skip


def parameters(settings: ModelSettings, header: Header, *, gpu: bool) -> dict[str, Any]:
    """Values of xllamacpp's CommonParams by name.

    :param gpu: whether there is a GPU that llama.cpp can use
    :raises SettingError: a value that this engine does not know
    """
    n_ctx = context(settings, header)
    threads = settings.threads
    layers = settings["N_GPU_LAYERS"]
    if layers is None or layers < 0:
        layers = _ALL_LAYERS if gpu else 0
    lines = settings.lines
    batch = settings["N_BATCH"] if gpu or "N_BATCH" in lines else NATIVE_CPU_BATCH
    # one token of each slot must have room in it, or llama.cpp aborts
    batch = max(batch, settings.slots)
    micro = settings["N_UBATCH"]
    if settings.only_reads:
        # an input is read as one batch
        batch, micro = (n_ctx if key not in lines else settings[key] for key in ("N_BATCH", "N_UBATCH"))
    params: dict[str, Any] = {
        "model.path": str(settings.model),
        "model_alias": [settings.name],
        "n_ctx": n_ctx * settings.slots,
        "n_parallel": settings.slots,
        "n_gpu_layers": layers if settings["GPU"] != "none" else 0,
        "n_batch": batch,
        "n_ubatch": min(micro, batch),
        "cpuparams.n_threads": threads,
        "cpuparams_batch.n_threads": settings["N_THREADS_BATCH"] or threads,
        # of llama.cpp's own threads, where it was built without OpenMP
        "cpuparams.poll": 0,
        "cpuparams_batch.poll": 0,
        "load_mode": _MMAP * settings["USE_MMAP"] + _MLOCK * settings["USE_MLOCK"],
        "numa": int(settings["NUMA"]),
        "no_kv_offload": not settings["OFFLOAD_KQV"],
        "embedding": settings.only_reads,
        # of a prompt whose beginning is held, the vector would be that of its end
        "cache_prompt": not settings.only_reads,
        # each stream has one of them; templates that are given up keep theirs until the server starts again
        "n_threads_http": 2 * settings.slots + _HTTP_THREADS,
        "endpoint_slots": True,
        "endpoint_props": False,
        "fit_params": False,
        "ui": False,
        "warmup": True,
        "sse_ping_interval": -1,
        # of the answers that a chat ends in, we say which ones are to be gone on with
        "prefill_assistant": False,
        "reasoning_format": 3 if settings["REASONING_FORMAT"] == "deepseek" else 0,
        # which devices it uses, llama.cpp says at a level at which it also speaks of every request
        "verbosity": _TRACE if gpu else _WARNINGS,
    }
    if "FLASH_ATTN" in lines:
        params["flash_attn_type"] = int(settings["FLASH_ATTN"])
    if settings["EMBEDDING"] and not header.embeds:
        params["pooling_type"] = _MEAN
    if settings["RERANK"]:
        params["pooling_type"] = _RANK
    if arguments := settings["CHAT_TEMPLATE_KWARGS"]:
        params["default_template_kwargs"] = {key: json.dumps(value) for key, value in arguments.items()}
    if settings["LORA_PATH"]:
        params["lora_adapters"] = [[str(settings["LORA_PATH"]), 1.0]]
    if settings["CHAT_FORMAT"] == "chatml":
        params["chat_template"] = "chatml"
    elif settings["CHAT_FORMAT"]:
        raise settings.error("CHAT_FORMAT", "must be chatml with ENGINE=native, or absent: the GGUF's own")
    return params | {name: settings[key] for key, name in _SAME.items() if settings[key] is not None}


def context(settings: ModelSettings, header: Header) -> int:
    """Tokens of context that each slot has."""
    trained = header.context_length or DEFAULT_N_CTX
    wanted: int | None = settings["N_CTX"]
    return min(trained, DEFAULT_N_CTX) if wanted is None else wanted or trained
