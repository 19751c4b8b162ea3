"""What a models.d/NAME.env may hold: llama_cpp.server's model settings under their own names, and ours.

The backend starts with these, the command line shows and checks them; neither needs an engine for it. A key
has one meaning whatever the engine; ONLY says which keys not every engine knows.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from llmsvc import config, config_settings, env, paths
from llmsvc.env import Setting, boolean, choice, integer, number, string
from llmsvc.errors import SettingError

DEFAULT_N_CTX = 4096
"""Context where N_CTX is not set, unless the model was trained with a shorter one; tokens."""

DEFAULT_SLOTS = 4
"""Requests at once where SLOTS is not set, of an engine that can do several."""

NATIVE_CPU_BATCH = 32
"""Tokens that the native engine reads at once on a CPU, where larger batches are no faster, if N_BATCH is not
set."""

_CACHE_TYPES = {
    "f32": 0, "f16": 1, "q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "iq4_nl": 20, "bf16": 30,
}  # fmt: skip
_SPLIT_MODES = {"none": 0, "layer": 1, "row": 2}
_ROPE_SCALING = {"none": 0, "linear": 1, "yarn": 2, "longrope": 3}
_GPU = re.compile(
    r"(none|all|([0-9]{1,3}|(GPU|MIG)-[0-9A-Za-z/-]+)(,([0-9]{1,3}|(GPU|MIG)-[0-9A-Za-z/-]+))*)\Z"
)
_KV_OVERRIDE = re.compile(r"[\w.-]+=(int|float|bool|str):[^,]{1,120}\Z")


def _named(values: Mapping[str, int]) -> Callable[[str], int]:
    """A word, or the number that llama.cpp has for it."""

    def parse(text: str) -> int:
        if text in values:
            return values[text]
        if text.isdigit() and int(text) in values.values():
            return int(text)
        raise ValueError(f"must be one of {', '.join(values)}, not {text[:40]!r}")

    return parse


def _gpu(text: str) -> str:
    if not _GPU.match(text):
        raise ValueError(f"must be all, none, or GPU numbers or UUIDs with commas between, not {text[:60]!r}")
    return text


def _numbers(text: str) -> list[float]:
    one = number(0, 1e6)
    return [one(part.strip()) for part in text.split(",")]


def _kv_overrides(text: str) -> list[str]:
    parts = [part.strip() for part in text.split(",")]
    for part in parts:
        if not _KV_OVERRIDE.match(part):
            raise ValueError(f"must be KEY=TYPE:VALUE with TYPE int, float, bool or str, not {part[:60]!r}")
    return parts


def _json_object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise ValueError(f"must be a JSON object, not {text[:60]!r}")
    return value


def _path(text: str) -> Path:
    return Path(string(text))


SETTINGS: tuple[Setting, ...] = (
    Setting("MODEL", _path, "", "GGUF file; a relative path is taken below LLAMA_MODELS_DIR."),
    Setting(
        "ENGINE",
        choice(*config_settings.ENGINES),
        "",
        "What runs the model: llama-cpp-python, one request at a time, or native, llama.cpp's own server, "
        "several at once. Default: LLAMA_ENGINE in config.env.",
    ),
    Setting(
        "SLOTS",
        integer(1, 64),
        "",
        f"With ENGINE=native: requests that are served at once, each with N_CTX tokens of context. Default: "
        f"{DEFAULT_SLOTS}; one for embeddings and rerankers.",
    ),
    Setting(
        "GPU",
        _gpu,
        "all",
        "GPUs that the model may use: all, none, or numbers (0,1) or UUIDs (GPU-...) with commas between, as "
        "nvidia-smi -L or rocminfo show them; Vulkan knows numbers only.",
    ),
    Setting("REQUIRE_GPU", boolean, "0", "1: the model fails to start when no layer got onto a GPU."),
    Setting(
        "N_CTX",
        integer(0, 16777216),
        "",
        f"Context, prompt and answer together; 0 = as trained. Default: as trained, at most {DEFAULT_N_CTX}.",
        "tokens",
    ),
    Setting(
        "N_GPU_LAYERS",
        integer(-1, 100000),
        "",
        "Layers on the GPU; -1 = all. Default: all where llama.cpp was built for a GPU.",
    ),
    Setting(
        "N_THREADS",
        integer(1, 4096),
        "",
        "Threads that generate. Default: cores - 1, as proxy and database use one; two where there are two.",
    ),
    Setting("N_THREADS_BATCH", integer(1, 4096), "", "Threads that read the prompt. Default: as N_THREADS."),
    Setting(
        "N_BATCH",
        integer(1, 1048576),
        "512",
        "Tokens of a prompt that are read at once. It is lowered until a batch takes at most 0.7 s where no "
        "batch can be interrupted when its request is cancelled: with a GPU, and with ENGINE=native.",
        "tokens",
    ),
    Setting(
        "N_UBATCH", integer(1, 1048576), "512", "The part of N_BATCH that is computed at once.", "tokens"
    ),
    Setting("CHAT_FORMAT", string, "", "Chat format of llama_cpp. Default: the template in the GGUF."),
    Setting(
        "CHAT_TEMPLATE_KWARGS",
        _json_object,
        "",
        'JSON object for the chat template, as {"enable_thinking": false}.',
    ),
    Setting("EMBEDDING", boolean, "0", "1: the model makes embeddings, and nothing else."),
    Setting(
        "RERANK",
        boolean,
        "0",
        "With ENGINE=native, 1: the model is a reranker: it ranks documents by how well they answer a query "
        "(POST /v1/rerank), and does nothing else.",
    ),
    Setting(
        "LOGITS_ALL",
        boolean,
        "0",
        "1: allows the logprobs of prompts (echo); costs N_CTX x vocabulary x 4 bytes of memory and slows "
        "prompts. The logprobs of answers need it not.",
    ),
    Setting("FLASH_ATTN", boolean, "0", "1: flash attention; needed for a quantized TYPE_V."),
    Setting("TYPE_K", _named(_CACHE_TYPES), "", "Type of the key cache: f16 (default), q8_0, ..."),
    Setting("TYPE_V", _named(_CACHE_TYPES), "", "Type of the value cache: f16 (default), q8_0, ..."),
    Setting("OFFLOAD_KQV", boolean, "1", "Whether the key and value cache lies on the GPU."),
    Setting("USE_MMAP", boolean, "1", "Map the file instead of copying it into memory."),
    Setting("USE_MLOCK", boolean, "0", "Keep the whole model in memory; reads all of it at the start."),
    Setting("NUMA", boolean, "0", "1: spread the work over NUMA nodes."),
    Setting("SPLIT_MODE", _named(_SPLIT_MODES), "", "How several GPUs share the model: none, layer, row."),
    Setting("MAIN_GPU", integer(0, 255), "", "The GPU for what is not split."),
    Setting("TENSOR_SPLIT", _numbers, "", "Shares of the model per GPU, as 3,1."),
    Setting("ROPE_SCALING_TYPE", _named(_ROPE_SCALING), "", "RoPE scaling: none, linear, yarn, longrope."),
    Setting("ROPE_FREQ_BASE", number(0, 1e12), "", "RoPE base frequency; 0 = from the model."),
    Setting("ROPE_FREQ_SCALE", number(0, 1e6), "", "RoPE frequency scale; 0 = from the model."),
    Setting("YARN_EXT_FACTOR", number(-1, 1e6), "", "YaRN extrapolation mix; -1 = from the model."),
    Setting("YARN_ATTN_FACTOR", number(-1, 1e6), "", "YaRN magnitude scale."),
    Setting("YARN_BETA_FAST", number(-1, 1e6), "", "YaRN low correction dimension."),
    Setting("YARN_BETA_SLOW", number(-1, 1e6), "", "YaRN high correction dimension."),
    Setting("YARN_ORIG_CTX", integer(0, 16777216), "", "Context the model was trained with.", "tokens"),
    Setting("LAST_N_TOKENS_SIZE", integer(0, 65536), "64", "Tokens that penalties look back.", "tokens"),
    Setting("LORA_PATH", env.absolute_path, "", "LoRA adapter to apply."),
    Setting("KV_OVERRIDES", _kv_overrides, "", "Overrides of GGUF keys, KEY=TYPE:VALUE with commas between."),
    Setting(
        "CACHE_PER_USER",
        boolean,
        "0",
        "With ENGINE=native, 1: what a slot still holds of one user's prompt never speeds up another's; so "
        "nobody can tell from the time to the first token how somebody else's prompt begins.",
    ),
    Setting(
        "CACHE_RAM",
        integer(0, 1048576),
        "0",
        "With ENGINE=native: memory in which conversations that lost their slot are kept.",
        "MiB",
    ),
    Setting(
        "REASONING_FORMAT",
        choice("deepseek", "none"),
        "deepseek",
        "With ENGINE=native: deepseek sends a model's thinking as reasoning_content, none in content.",
    ),
    Setting(
        "SWA_FULL",
        boolean,
        "0",
        "With ENGINE=native, 1: a model with a sliding window keeps its whole context, to go back in it.",
    ),
)
_KNOWN = {setting.key: setting for setting in SETTINGS}
ONLY = {
    "llama-cpp-python": frozenset({"KV_OVERRIDES", "LOGITS_ALL"}),
    "native": frozenset({"CACHE_PER_USER", "CACHE_RAM", "REASONING_FORMAT", "RERANK", "SLOTS", "SWA_FULL"}),
}
"""Keys that only one engine knows."""
OURS = frozenset({"ENGINE", "GPU", "REQUIRE_GPU"}) | ONLY["native"]
"""Keys that are llmsvc's own; all others are fields of llama_cpp.server's ModelSettings in upper case."""

_NETWORK = "the model's process has no network"
_SOCKET = "the model answers on a unix socket of its own; who reaches the service is LLAMA_PROXY_HOST"
REFUSED: dict[str, str] = {
    "HOST": _SOCKET,
    "PORT": _SOCKET,
    "SSL_KEYFILE": _SOCKET,
    "SSL_CERTFILE": _SOCKET,
    "ROOT_PATH": _SOCKET,
    "API_KEY": "keys are made with 'llmsvc key add'",
    "CONFIG_FILE": "the settings of a model are in this file alone",
    "MODEL_ALIAS": "a model is called like its file in models.d",
    "CACHE": "its size limit does not hold, and it would keep users' prompts",
    "CACHE_TYPE": "there is no prompt cache",
    "CACHE_SIZE": "there is no prompt cache",
    "CLIP_MODEL_PATH": "image input would fetch any URL a user names",
    "RPC_SERVERS": "its protocol has no authentication",
    "DRAFT_MODEL": "it fails on prompts longer than a batch",
    "DRAFT_MODEL_NUM_PRED_TOKENS": "there is no draft model",
    "INTERRUPT_REQUESTS": "one user's request would cut another's off",
    "DISABLE_PING_EVENTS": "streams are kept alive by the proxy",
    "VOCAB_ONLY": "the model could not answer",
    "VERBOSE": "it would write to the journal what users ask",
    "SEED": "each request has a seed of its own",
    "MUL_MAT_Q": "llama.cpp has no such setting any more",
    "LORA_BASE": "llama.cpp has no such setting any more",
    "HF_TOKENIZER_CONFIG_PATH": "the tokenizer of the GGUF is used",
    "HF_PRETRAINED_MODEL_NAME_OR_PATH": _NETWORK,
    "HF_MODEL_REPO_ID": _NETWORK,
}
"""Settings of llama_cpp.server that are unsafe or senseless here, and why."""


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """The settings of one model.

    `values` has every key of SETTINGS; None where neither the file nor a default says anything. `lines` has
    the line of each key that the file sets.
    """

    name: str
    file: Path
    model: Path
    values: dict[str, Any]
    lines: dict[str, int]

    def __getitem__(self, key: str) -> Any:
        return self.values[key]

    @property
    def only_reads(self) -> bool:
        """Whether the model reads texts and writes none: for embeddings, or to rank documents."""
        return bool(self["EMBEDDING"] or self["RERANK"])

    @property
    def slots(self) -> int:
        """Requests that are served at once."""
        # vectors of several inputs in one batch come out wrong (llama.cpp b11549), and are no faster
        if self["ENGINE"] != "native" or self.only_reads:
            return 1
        return int(self["SLOTS"] or DEFAULT_SLOTS)

    @property
    def threads(self) -> int:
        """Threads that generate."""
        cores = len(os.sched_getaffinity(0))
        # a second one gains more than what the proxy and the database lose
        return int(self["N_THREADS"] or max(cores - 1, min(cores, 2)))

    def source(self, key: str) -> str:
        """Where the value of `key` comes from: `FILE:LINE` or `default`."""
        return f"{self.file}:{self.lines[key]}" if key in self.lines else "default"

    def error(self, key: str, problem: str, hint: str | None = None) -> SettingError:
        """A SettingError that names the place of `key`."""
        return SettingError(problem, file=self.file, line=self.lines.get(key), key=key, hint=hint)


def load(name: str, file: Path | None = None) -> ModelSettings:
    """Reads models.d/NAME.env.

    :param file: the file to read instead
    :raises SettingError: there is no such file, or the first thing wrong in it, with file, line and key
    """
    if not config.valid_model_name(name):
        raise SettingError(f"{name[:80]!r} cannot name a model: {config.MODEL_NAME_RULE}")
    file = file or paths.MODELS_D / f"{name}.env"
    if not file.exists():
        raise SettingError("there is no such file", file=file, hint="'llmsvc model list' shows what there is")
    return parse(name, env.read(file), file)


def parse(name: str, entries: Mapping[str, env.Entry], file: Path) -> ModelSettings:
    """The settings that the entries of a models.d/NAME.env make; see load()."""
    for entry in entries.values():
        check_key(entry, file)
    values = env.resolve(SETTINGS, entries, file)
    lines = {entry.key: entry.line for entry in entries.values() if entry.value}
    if values["ENGINE"] is None:
        values["ENGINE"] = config.values("LLAMA_ENGINE", file=paths.CONFIG_ENV)[0]
    model: Path | None = values["MODEL"]
    if model is None:
        line = entries["MODEL"].line if "MODEL" in entries else None
        raise SettingError("must name a GGUF file", file=file, line=line, key="MODEL")
    if not model.is_absolute():
        model = config.values("LLAMA_MODELS_DIR", file=paths.CONFIG_ENV)[0] / model
    settings = ModelSettings(name, file, model, values, lines)
    if values["TYPE_V"] not in (None, 0, 1, 30) and not values["FLASH_ATTN"]:
        raise settings.error("TYPE_V", "a quantized value cache needs FLASH_ATTN=1")
    if values["REQUIRE_GPU"] and (values["GPU"] == "none" or values["N_GPU_LAYERS"] == 0):
        key = "GPU" if values["GPU"] == "none" else "N_GPU_LAYERS"
        raise settings.error(key, "contradicts REQUIRE_GPU=1")
    if values["RERANK"] and values["EMBEDDING"]:
        raise settings.error("RERANK", "contradicts EMBEDDING=1: a model does one or the other")
    _check_engine(settings)
    return settings


def _check_engine(settings: ModelSettings) -> None:
    for engine, keys in ONLY.items():
        for key in sorted(keys & settings.lines.keys()):
            if settings["ENGINE"] != engine:
                raise settings.error(key, f"works with ENGINE={engine} only")
    if settings["CACHE_PER_USER"] and settings["CACHE_RAM"]:
        raise settings.error("CACHE_RAM", "would be shared by all users, which CACHE_PER_USER=1 forbids")


def check_key(entry: env.Entry, file: Path) -> None:
    """:raises SettingError: no models.d/NAME.env may hold this key"""
    config.refuse_secret(entry, file)
    if entry.key in REFUSED:
        raise SettingError(f"is not allowed: {REFUSED[entry.key]}", file=file, line=entry.line, key=entry.key)
    if entry.key not in _KNOWN:
        hint = env.closest_hint(entry.key, _KNOWN)
        raise SettingError("unknown setting", file=file, line=entry.line, key=entry.key, hint=hint)
