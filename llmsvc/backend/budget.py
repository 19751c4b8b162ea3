"""How many tokens a request may take: the proxy says so for users whose tokens are limited.

Only here are a prompt's tokens known before they are spent, so that no limit is ever overshot.
"""

from __future__ import annotations

from llmsvc.backend.jobs import Job
from llmsvc.backend.problem import ApiError


def of(header: str) -> int | None:
    """The budget that the header `x-token-budget` sets, for prompt and answer together; None for no limit."""
    return int(header) if header.isascii() and header.isdigit() else None


def check(job: Job) -> None:
    """Refuses a job whose prompt leaves no token of its budget for an answer.

    An engine that learns a prompt's tokens only as it reads them calls refuse_prompt() by then.

    :raises ApiError: 429 `token_budget_exceeded`, with the prompt's tokens in the usage beside it
    """
    if job.task is not None and job.task.prompt_tokens is not None:
        refuse_prompt(job, job.task.prompt_tokens, answers=job.task.answers)


def refuse_prompt(job: Job, prompt: int, *, answers: bool) -> None:
    """See check().

    :param answers: whether the job is to make a token too
    """
    if job.budget is not None and prompt + answers > job.budget:
        job.prompt_tokens = prompt
        message = f"the prompt has {prompt} tokens, and the request may take {job.budget}"
        raise ApiError(429, message, code="token_budget_exceeded")
