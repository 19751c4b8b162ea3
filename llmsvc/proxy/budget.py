"""The tokens of one request of a user whose tokens are limited: granted at its turn, settled at its end."""

from __future__ import annotations

from collections.abc import Callable

from llmsvc.proxy.backends import Usage
from llmsvc.proxy.errors import ApiError
from llmsvc.proxy.limits import Grant, Limits
from llmsvc.proxy.participants import Participant

# what a chat template may add to the texts of a request
_TEMPLATE_TOKENS = 512


class Budget:
    """See the module.

    :param body_bytes: size of the request's body; no text has more tokens than bytes
    :param answer: tokens that its answer may have, None for as many as fit
    :param context: gives the tokens that the loaded model has room for, where that is known and a bound
    """

    def __init__(
        self,
        limits: Limits,
        who: Participant,
        body_bytes: int,
        answer: int | None,
        context: Callable[[], int | None],
    ) -> None:
        self._limits = limits
        self._who = who
        self._most = None if answer is None else body_bytes + _TEMPLATE_TOKENS + answer
        self._context = context
        self._grant: Grant | None = None
        self.limited = limits.bounds_tokens(who)
        """Whether there is a limit at all; if not, the rest need not be asked."""

    def may_start(self) -> bool:
        """Whether it need not wait until other requests of its user have said what they really took."""
        return self._limits.may_start(self._who, self._needed())

    def take(self) -> None:
        """Reserves its tokens: its turn has come.

        :raises ApiError: 429, none are left
        """
        self._grant = self._limits.reserve(self._who, self._needed())

    @property
    def tokens(self) -> int | None:
        """The tokens that prompt and answer may take together, from take() on; None for no limit."""
        return None if self._grant is None else self._grant.tokens

    def settle(self, usage: Usage) -> None:
        """The model is free of the request, which has taken so much; for the second time it does nothing."""
        grant, self._grant = self._grant, None
        if grant is not None:
            used = (usage.prompt_tokens or 0) + (usage.completion_tokens or 0)
            self._limits.settle(self._who, grant, used)

    def too_small(self, prompt: Usage) -> ApiError:
        """The error of a prompt that alone takes more than was left. It has taken nothing."""
        self.settle(Usage())
        return self._limits.too_few_tokens(self._who, prompt.prompt_tokens or 0)

    def _needed(self) -> int:
        """More tokens than it can take."""
        bounds = [bound for bound in (self._context(), self._most) if bound is not None]
        # a model that does not say its context gets one request of such a user at a time
        return min(bounds, default=10**9)
