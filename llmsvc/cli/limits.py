"""The limits and rights of a user, as options and as text: for `user add`, `set`, `list` and `show`."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple, cast

from llmsvc.cli.output import Table

if TYPE_CHECKING:
    from llmsvc.accounts.users import Changes, User
    from llmsvc.config import Config

_NUMBER = re.compile(r"([0-9]{1,15})([kM]?)\Z", re.ASCII)
_FACTORS = {"": 1, "k": 1000, "M": 1_000_000}
_MOST_MODELS = 100


class _Limit(NamedTuple):
    """A number that replaces a default of config.env, `setting`."""

    name: str
    setting: str
    most: int
    shown: str
    """With the number before it: `5 requests per window`."""
    help: str

    @property
    def option(self) -> str:
        return "--" + self.name.replace("_", "-")


_LIMITS = (
    _Limit(
        "rate_limit",
        "LLAMA_PROXY_RATE_LIMIT",
        1_000_000,
        "requests per window",
        "requests per LLAMA_PROXY_RATE_WINDOW_SECONDS",
    ),
    _Limit(
        "concurrent", "LLAMA_PROXY_CONCURRENT", 100_000, "at once", "requests at once, waiting or running"
    ),
    _Limit(
        "tokens_per_minute",
        "LLAMA_PROXY_TOKENS_PER_MINUTE",
        10**9,
        "tokens a minute",
        "tokens in and out within 60 s",
    ),
    _Limit(
        "tokens_per_day",
        "LLAMA_PROXY_TOKENS_PER_DAY",
        10**12,
        "tokens a day",
        "tokens in and out within 24 hours",
    ),
    _Limit(
        "max_tokens",
        "LLAMA_PROXY_MAX_TOKENS_LIMIT",
        10_000_000,
        "tokens an answer",
        "tokens of the longest answer",
    ),
)


def add_options(parser: argparse.ArgumentParser, *, change: bool) -> None:
    """Adds the options.

    :param change: for a user that is there, whose settings stay where nothing is said
    """
    group = parser.add_argument_group(
        "limits",
        "Each replaces the default of config.env for this user; 'default' goes back to it. For a trusted "
        "front end they hold for each of its users. 10k is 10000, 2M is 2000000.",
    )
    for limit in _LIMITS:
        group.add_argument(
            limit.option,
            type=_number(limit.most, "default"),
            default=argparse.SUPPRESS,
            metavar="N",
            help=limit.help,
        )
    group.add_argument(
        "--weight",
        type=_number(100),
        default=argparse.SUPPRESS,
        metavar="N",
        help="turns in the queue for each one of another user: 1 to 100 (default: 1)",
    )
    rights = parser.add_argument_group("rights")
    rights.add_argument(
        "--models",
        type=_models,
        default=argparse.SUPPRESS,
        metavar="A,B",
        help="the models that it may use, 'all' for any (default: all)",
    )
    rights.add_argument(
        "--may-switch",
        action=argparse.BooleanOptionalAction if change else "store_true",
        default=None,  # where the others are left out, Python 3.10 would show in the help what stands here
        help="requests may start the model that they name, with LLAMA_PROXY_AUTOSWITCH=1",
    )
    rights.add_argument(
        "--role",
        choices=("user", "admin"),
        default=argparse.SUPPRESS,
        help="an admin's key may also read what concerns all users" + ("" if change else " (default: user)"),
    )


def given(args: argparse.Namespace) -> Changes:
    """What the options say; what they do not say is left out."""
    names = (*(limit.name for limit in _LIMITS), "weight", "models", "may_switch", "role")
    values = {name: getattr(args, name) for name in names if hasattr(args, name)}
    if values["may_switch"] is None:
        del values["may_switch"]
    return cast("Changes", values)


def told(changes: Changes) -> str:
    """The changes for the audit: `rate_limit=default models=a,b`."""
    return " ".join(f"{name}={_text(name, value)}" for name, value in changes.items())


def own(user: User) -> str:
    """What of the limits is this user's own: `5 requests per window, weight 3`; `default` for nothing."""
    parts = [
        f"{getattr(user, limit.name):,} {limit.shown}"
        for limit in _LIMITS
        if getattr(user, limit.name) is not None
    ]
    if user.weight != 1:
        parts.append(f"weight {user.weight}")
    return ", ".join(parts) or "default"


def table(user: User, config: Config) -> Table:
    """What holds for this user, and where that stands; for people."""
    rows: list[tuple[str, str, str]] = []
    for limit in _LIMITS:
        own_value = getattr(user, limit.name)
        value = getattr(config, limit.setting.lower()) if own_value is None else own_value
        what = limit.shown if limit.name != "concurrent" else "requests at once"
        if limit.name == "rate_limit":
            what = f"requests within {config.llama_proxy_rate_window_seconds} s"
        source = limit.setting if own_value is None else "own"
        rows.append((what, f"{value:,}" if value else "no limit", source))
    rows.append(("weight in the queue", str(user.weight), "own" if user.weight != 1 else "default"))
    return Table(("limit", "value", "from"), rows, right=("value",))


def data(user: User) -> dict[str, object]:
    """The same for programs."""
    return {limit.name: getattr(user, limit.name) for limit in _LIMITS} | {
        "weight": user.weight,
        "models": user.models,
        "may_switch": user.may_switch,
    }


def unknown_models(names: Sequence[str] | None) -> list[str]:
    """Which of these models are not installed: allowed all the same, but perhaps mistyped."""
    from llmsvc import paths

    return [name for name in names or () if not (paths.MODELS_D / f"{name}.env").exists()]


def _text(name: str, value: object) -> str:
    if value is None:
        return "all" if name == "models" else "default"
    return ",".join(value) if isinstance(value, list) else str(value)


def _number(most: int, none: str | None = None) -> Callable[[str], int | None]:
    def number(text: str) -> int | None:
        if none is not None and text == none:
            return None
        found = _NUMBER.match(text)
        value = int(found[1]) * _FACTORS[found[2]] if found else 0
        if not 1 <= value <= most:
            also = f", or '{none}'" if none else ""
            raise argparse.ArgumentTypeError(f"must be a number from 1 to {most}{also}, not {text[:20]!r}")
        return value

    return number


def _models(text: str) -> list[str] | None:
    from llmsvc import config

    if text == "all":
        return None
    names = sorted({name.strip() for name in text.split(",")})
    for name in names:
        if not config.valid_model_name(name):
            raise argparse.ArgumentTypeError(
                f"{name[:70]!r} is no model's name; give names of 'llmsvc model list', such as "
                "smollm2,mistral, or 'all'"
            )
    if len(names) > _MOST_MODELS:
        raise argparse.ArgumentTypeError(f"at most {_MOST_MODELS} models")
    return names
