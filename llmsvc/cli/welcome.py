"""What somebody with a new key needs: where to send requests, the key, the model, and a line to try it."""

from __future__ import annotations

import json
import shlex

MODEL = "current"


def details(base_url: str, key: str) -> dict[str, str]:
    """The same for programs: base_url, api_key, model and curl, a line to paste into a shell.

    :param base_url: ends in /v1
    """
    body = {"model": MODEL, "messages": [{"role": "user", "content": "Say hello"}]}
    argv = ["curl", f"{base_url}/chat/completions", "-H", f"Authorization: Bearer {key}"]
    argv += ["-H", "Content-Type: application/json", "-d", json.dumps(body)]
    return {"base_url": base_url, "api_key": key, "model": MODEL, "curl": shlex.join(argv)}


def welcome(base_url: str, key: str) -> str:
    """The text for people."""
    shown = details(base_url, key)
    return (
        f"  base URL  {shown['base_url']}\n"
        f"  API key   {shown['api_key']}\n"
        f"  model     {shown['model']}\n"
        f"\n"
        f"The key is shown this once. To try it:\n"
        f"\n"
        f"  {shown['curl']}"
    )
