"""What models do that only read: vectors of texts, and scores of documents.

Both are asked for a few texts at a time: between two such batches the request can be cancelled.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

from llmsvc.backend import budget, reranking, vectors
from llmsvc.backend.bodies import Request
from llmsvc.backend.jobs import Job
from llmsvc.backend.native.http import Http
from llmsvc.backend.problem import bad, too_long
from llmsvc.backend.vocabulary import Vocabulary

_BATCH_TOKENS = 64
_BATCH_BYTES = 256
_BETWEEN = 4
"""Tokens that stand before, between and behind query and document, at most."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """Asks the server.

    :param limit: tokens that it reads at once
    :param moved: called after each batch
    """

    http: Http
    vocabulary: Vocabulary
    model: str
    limit: int
    moved: Callable[[], None]

    async def read(self, request: Request, job: Job) -> bool:
        """Leaves the answer in the job."""
        assert request.inputs is not None
        if request.query is None:
            await self._embed(request, request.inputs, job)
        else:
            await self._rank(request, request.inputs, request.query, job)
        return True

    async def _embed(self, request: Request, inputs: list[str], job: Job) -> None:
        places = [f"input[{index}]" for index in range(len(inputs))]
        if job.budget is not None:
            counts = [len(await self._input(text, place)) for text, place in zip(inputs, places, strict=True)]
            budget.refuse_prompt(job, sum(counts), answers=False)
        found: list[list[float]] = []
        some: list[list[int]] = []
        for text, place in zip(inputs, places, strict=True):
            some.append(await self._input(text, place))
            if sum(map(len, some)) >= _BATCH_TOKENS or place == places[-1]:
                answer = await self.http.json("POST", "/v1/embeddings", {"input": some})
                self.moved()
                job.prompt_tokens += sum(map(len, some))
                data = sorted(answer["data"], key=lambda item: item["index"])
                found += [vectors.unit(item["embedding"]) for item in data]
                some = []
        job.answer = vectors.answer(found, self.model, as_base64=request.base64)

    async def _rank(self, request: Request, documents: list[str], query: str, job: Job) -> None:
        # the server takes control tokens in them for such
        asked, *shown = map(self.vocabulary.protect, (query, *documents))
        room = self.limit - len(await self.http.tokens(asked, special=False)) - _BETWEEN
        counts = []
        for index, text in enumerate(shown):
            count = len(await self.http.tokens(text, special=False))
            if count > room:
                raise too_long(count + self.limit - room, self.limit, f"documents[{index}]")
            counts.append(count)
        if job.budget is not None:
            prompt = sum(counts) + len(counts) * (self.limit - room)
            budget.refuse_prompt(job, prompt, answers=False)
        scores: list[float] = []
        some: list[str] = []
        for index, text in enumerate(shown):
            some.append(text)
            if sum(map(len, some)) >= _BATCH_BYTES or index == len(shown) - 1:
                answer = await self.http.json("POST", "/v1/rerank", {"query": asked, "documents": some})
                self.moved()
                job.prompt_tokens += answer["usage"]["prompt_tokens"]
                # some models have a template around the two, which only the server counts
                budget.refuse_prompt(job, job.prompt_tokens, answers=False)
                results = sorted(answer["results"], key=lambda item: item["index"])
                scores += [float(item["relevance_score"]) for item in results]
                some = []
        job.answer = reranking.answer(request, scores, self.model)

    async def _input(self, text: str, place: str) -> list[int]:
        """The tokens of an input for an embedding; control tokens are text in it."""
        tokens = await self.http.tokens(text, special=False)
        if len(tokens) > self.limit:
            raise too_long(len(tokens), self.limit, place)
        if not tokens:
            raise bad("an input comes to nothing", place)
        return tokens
