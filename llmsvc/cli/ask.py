"""`llmsvc ask`: one question to the loaded model, through the proxy like any client."""

from __future__ import annotations

import argparse
import os
import sys

from llmsvc import paths
from llmsvc.cli.output import Result
from llmsvc.errors import DeniedError


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Adds it to the command line."""
    parser = subparsers.add_parser(
        "ask",
        help="ask the loaded model something",
        description="Sends one message to the loaded model and prints the answer as it comes.\n"
        "The key is taken from OPENAI_API_KEY; root needs none, it uses this machine's own.",
        epilog='example: llmsvc ask "Say hello"',
    )
    parser.add_argument("prompt", metavar="TEXT", help="what to ask; - reads it from standard input")
    parser.add_argument(
        "--max-tokens", type=int, default=512, metavar="N", help="longest answer (default 512)"
    )
    parser.set_defaults(command=_ask)


def _ask(arguments: argparse.Namespace) -> Result:
    from llmsvc import client, config

    key = own_key()
    prompt = sys.stdin.read() if arguments.prompt == "-" else arguments.prompt
    as_json = getattr(arguments, "json", False)
    parts = []
    for part in client.chat(config.load().base_url, key, prompt, max_tokens=arguments.max_tokens):
        parts.append(part)
        if not as_json:
            print(part, end="", flush=True)
    if not as_json:
        print()
    return Result({"answer": "".join(parts)}, "")


def own_key() -> str:
    """The caller's key: OPENAI_API_KEY, or for root this machine's own.

    :raises DeniedError: there is neither
    """
    if key := os.environ.get("OPENAI_API_KEY"):
        return key
    from llmsvc import config

    try:
        enabled = config.load().llama_proxy_enabled
        return (paths.LOCAL_KEY if enabled else paths.API_KEY).read_text(encoding="ascii").strip()
    except OSError:
        raise DeniedError("no API key", hint="set OPENAI_API_KEY to your key, or use sudo") from None
