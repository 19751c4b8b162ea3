"""How an answer is drawn: what of it llama_cpp.server gets, and what we see to ourselves."""

from __future__ import annotations

import random
from typing import Any

from llmsvc.backend import fields
from llmsvc.backend.problem import bad

MAX_STOPS = 16
MAX_STOP_CHARS = 500
MAX_BIASES = 300
MIN_TEMPERATURE = 0.001

_NUMBERS: dict[str, tuple[type, float, float]] = {
    "temperature": (float, 0, 2),
    "top_p": (float, 0, 1),
    "min_p": (float, 0, 1),
    "top_k": (int, -1, 1_000_000),
    "presence_penalty": (float, -2, 2),
    "frequency_penalty": (float, -2, 2),
    "repeat_penalty": (float, 0.01, 10),
    "mirostat_mode": (int, 0, 2),
    "mirostat_tau": (float, 0, 10),
    "mirostat_eta": (float, 0.001, 1),
    "max_tokens": (int, 1, 10**12),
}


def of_app(body: dict[str, Any], model: str) -> dict[str, Any]:
    """What llama_cpp.server gets of chat and raw completions alike.

    :param model: the name it knows its model by
    """
    if "grammar" in body:
        raise bad("grammar is not supported; use response_format", "grammar", "unsupported_parameter")
    if body.get("n", 1) != 1:
        raise bad("n must be 1", "n")
    seed = body.get("seed", -1)
    if type(seed) is not int:
        raise bad("seed must be a whole number", "seed")
    out: dict[str, Any] = {
        "model": model,
        "stream": fields.boolean(body, "stream"),
        "repeat_penalty": 1.0,
        # without one llama_cpp derives it from the last request's
        "seed": random.SystemRandom().randrange(2**32 - 1) if seed < 0 else seed % (2**32 - 1),
    }
    bound = "max_completion_tokens" if "max_completion_tokens" in body else "max_tokens"
    if "max_completion_tokens" in body:
        # also of raw completions, which OpenAI's do not have: whoever bounds answers need not tell them apart
        body["max_tokens"] = body.pop("max_completion_tokens")
    # -1.0 is not that: who bounds answers takes what is no whole number for one that is refused here
    if body.get("max_tokens") == -1 and type(body["max_tokens"]) is int:
        del body["max_tokens"]  # other servers' word for "as many as there is room for"
    for key, (kind, low, high) in _NUMBERS.items():
        if key in body:
            out[key] = fields.number(body[key], bound if key == "max_tokens" else key, kind, low, high)
    if out.get("temperature", 1) < MIN_TEMPERATURE:
        # the engine would divide by it, and what it draws from what is no number may break a grammar
        out["temperature"] = 0.0
    if out.get("top_k") == -1:
        out["top_k"] = 0  # other engines' word for "all"
    return out


def ours(body: dict[str, Any], n_vocab: int) -> dict[str, Any]:
    """What else chat and raw completions share: arguments of Request."""
    stops = body.get("stop", [])
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or len(stops) > MAX_STOPS:
        raise bad(f"stop must be a text or a list of at most {MAX_STOPS}", "stop")
    if not all(isinstance(stop, str) and len(stop) <= MAX_STOP_CHARS for stop in stops):
        raise bad(f"stop must consist of texts of at most {MAX_STOP_CHARS} characters", "stop")
    return {
        "stops": [stop for stop in stops if stop],
        "min_tokens": fields.integer(body, "min_tokens", 0, 1_000_000_000) or 0,
        "bias": _logit_bias(body, n_vocab),
    }


def _logit_bias(body: dict[str, Any], n_vocab: int) -> dict[int, float]:
    bias = body.get("logit_bias", {})
    if not isinstance(bias, dict) or len(bias) > MAX_BIASES:
        raise bad(f"logit_bias must be an object of at most {MAX_BIASES} tokens", "logit_bias")
    for key in bias:
        if not (key.isascii() and key.isdigit() and len(key) < 10 and int(key) < n_vocab):
            raise bad(f"logit_bias must name tokens from 0 to {n_vocab - 1}", "logit_bias")
    return {int(key): fields.number(value, "logit_bias", float, -100, 100) for key, value in bias.items()}
