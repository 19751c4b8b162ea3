"""The loaded model behind llama.cpp's server; see the package's docstring."""

from __future__ import annotations

import asyncio
import contextlib
import importlib.metadata
import importlib.util
import logging
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from llmsvc.backend import answers, budget, calls, reranking
from llmsvc.backend.answers import Events
from llmsvc.backend.bodies import Model, Request, chat, embedding
from llmsvc.backend.engines import Facts
from llmsvc.backend.jobs import Job, start
from llmsvc.backend.llamalog import Log
from llmsvc.backend.loading import STALL_SECONDS, Progress, exit_now
from llmsvc.backend.native import filling, options, template
from llmsvc.backend.native.http import Http, RefusedError, explained
from llmsvc.backend.native.reading import Reader
from llmsvc.backend.native.renewal import Renewal
from llmsvc.backend.native.requests import Planner, Task
from llmsvc.backend.native.server import LlamaServer
from llmsvc.backend.native.slots import Slot, Slots
from llmsvc.backend.native.stream import Answer
from llmsvc.backend.problem import ApiError
from llmsvc.errors import Error, ModelError
from llmsvc.library import memory
from llmsvc.library.gguf import Header
from llmsvc.library.settings import ModelSettings

log = logging.getLogger(__name__)

MAX_BATCH_SECONDS = 0.4
"""What a full batch may take at the start of a context; at its end it takes about twice as long."""
SMALLEST_BATCH = 8
_FREE_SECONDS = 10.0


class Engine:
    """See engines.Engine."""

    def __init__(
        self,
        settings: ModelSettings,
        header: Header,
        progress: Progress,
        gpu_lost: Callable[[str], None],
        directory: Path,
    ) -> None:
        """Loads the model; see engines.load()."""
        if importlib.util.find_spec("xllamacpp") is None:
            raise settings.error(
                "ENGINE", "xllamacpp is not installed", "packaging/install.sh --engine native"
            )
        self._settings = settings
        self._header = header
        self._progress = progress
        self.slots = settings.slots
        self._slots = Slots(self.slots, per_user=settings["CACHE_PER_USER"])
        self._running: set[Job] = set()
        self._moved = time.monotonic()
        self._speed: float | None = None
        self._log = Log(gpu_lost)
        self._params = options.parameters(
            settings, header, gpu=memory.gpu_nodes() and settings["GPU"] != "none"
        )
        self._server = LlamaServer(directory, self._log)
        self._http = Http(self._server.address)
        self._renewal = Renewal(self._restart)
        self._log.start()
        self._start()
        try:
            asyncio.run(self._inspect())
        except Error:
            self.close()
            raise

    def _start(self) -> None:
        if not self._server.start(self._params, self._header.size, self._progress):
            if said := self._log.find("chat template"):
                raise ModelError(f"its chat template fails: {_brief(said)}", file=self._settings.model)
            raise self._log.load_error(self._settings, f"its server ended with {self._server.ended}")

    def _restart(self) -> None:
        log.warning("the chat template did not end over a request: llama.cpp's server starts again")
        self._moved = time.monotonic() + STALL_SECONDS
        self._server.stop()
        if not self._server.start(self._params, self._header.size, None):
            log.error("llama.cpp's server does not start again")
            exit_now(1)
        self._moved = time.monotonic()

    async def _inspect(self) -> None:
        """Learns what the loaded model is."""
        settings = self._settings
        n_gpu_layers, n_layers = self._log.offloaded or (0, self._header.block_count or 0)
        self._log.check_gpu(settings, n_gpu_layers)
        props = await self._http.json("GET", "/props")
        meta = (await self._http.json("GET", "/v1/models"))["data"][0]["meta"]
        self._filler = None if settings.only_reads else await filling.find(self._http)
        self.facts = Facts(
            engine="native",
            engine_version=importlib.metadata.version("xllamacpp"),
            n_ctx=props["default_generation_settings"]["n_ctx"],
            n_ctx_train=meta["n_ctx_train"],
            device=", ".join(self._log.devices) if n_gpu_layers else "cpu",
            n_gpu_layers=n_gpu_layers,
            n_layers=n_layers,
        )
        apart = not settings.only_reads and settings["REASONING_FORMAT"] != "none"
        caps = props["chat_template_caps"]
        thinks = await template.thinking(self._http, caps) if apart else template.Thinking(False, False)
        self.model = Model(
            name=settings.name,
            file=settings.model.name,
            n_vocab=meta["n_vocab"],
            embedding=settings["EMBEDDING"],
            ranks=settings["RERANK"],
            can_call=bool(caps.get("supports_tools")),
            thinks=apart and thinks.known,
            can_fill=self._filler is not None,
        )
        vocabulary = template.vocabulary(settings.model, props.get("chat_template") or "")
        self._reader = Reader(
            self._http,
            vocabulary,
            settings.name,
            min(self._params["n_ubatch"], self.facts.n_ctx),
            self._has_moved,
        )
        self._planner = Planner(
            lambda: vocabulary,
            self.facts.n_ctx,
            self.model.can_call,
            calls.syntax_of(props.get("chat_template") or ""),
            fewest_thoughts=int(thinks.open),
        )

    def self_test(self) -> None:
        """See engines.Engine."""
        job = Job("self-test")
        try:
            asyncio.run(self._test(job))
        except ApiError as error:
            raise ModelError(f"its chat template fails: {error.message}", file=self._settings.model) from None
        except (RefusedError, OSError, ValueError) as error:
            said = self._log.gpu() or _brief(str(error))
            raise Error(f"the model loads but fails to answer: {said}") from None
        finally:
            self._log.stop()

    async def _test(self, job: Job) -> None:
        if self.model.embedding:
            request = embedding({"input": "Hello"}, self.model)
        elif self.model.ranks:
            request = reranking.request({"query": "Hello", "documents": ["Hello"]}, self.model)
        else:
            await self._fit_batch()
            hello = [{"role": "user", "content": "Hello"}]
            request = chat({"messages": hello, "max_tokens": 1}, self.model)
        job.task = self.plan(request)
        await self.run(request, job, asyncio.Queue())

    async def _fit_batch(self) -> None:
        """Starts the server again with a smaller batch where the one that it has takes too long."""
        size = self._params["n_batch"]
        seconds = await self._batch_seconds(size)
        if seconds > MAX_BATCH_SECONDS and size > SMALLEST_BATCH:
            # the first one may have been slow for a driver that compiles in it
            seconds = min(seconds, await self._batch_seconds(size))
        fitting = int(size * MAX_BATCH_SECONDS / seconds)
        smaller = max(SMALLEST_BATCH, self.slots, 1 << max(fitting.bit_length() - 1, 0))
        if fitting >= size or smaller >= size:
            return
        self._params |= {"n_batch": smaller, "n_ubatch": min(smaller, self._params["n_ubatch"])}
        self._server.stop()
        self._start()

    async def _batch_seconds(self, size: int) -> float:
        body = {"prompt": [1] * min(size, self.facts.n_ctx - 2), "n_predict": 1, "cache_prompt": False}
        answer = await self._http.json("POST", "/completion", body)
        return float(answer["timings"]["prompt_ms"]) / 1000

    @property
    def tokens_per_second(self) -> float | None:
        """See engines.Engine."""
        speeds = [speed for job in self._running if (speed := job.speed())]
        return round(sum(speeds), 2) if speeds else self._speed

    def alive(self, seconds: float) -> bool:
        """See engines.Engine."""
        return not self._running or time.monotonic() - self._moved < seconds

    def _has_moved(self) -> None:
        self._moved = time.monotonic()

    def plan(self, request: Request) -> Task:
        """See engines.Engine."""
        return self._planner.plan(request)

    async def count(self, task: Task) -> int:
        """See engines.Engine."""
        try:
            async with self._renewal.using():
                counting = self._http.json("POST", "/v1/chat/completions/input_tokens", task.body)
                answer = await self._renewal.rendering(counting)
        except RefusedError as error:
            raise explained(error, self.facts.n_ctx, chat=True) from None
        return int(answer["input_tokens"])

    async def run(self, request: Request, job: Job, events: Events) -> None:
        """See engines.Engine."""
        start(job)
        async with self._renewal.using(job):
            await self._run(request, job, events)

    async def _run(self, request: Request, job: Job, events: Events) -> None:
        if not self._running:
            self._has_moved()
        task: Task = job.task
        slot, keep = self._slots.take(job.user, task.prints)
        self._running.add(job)
        ended = False
        try:
            if task.inputs is not None:
                work = self._reader.read(request, job)
            else:
                task.body |= {"id_slot": slot.number, "cache_prompt": keep}
                if job.user and not self._settings["CACHE_RAM"]:
                    # of what others left it would tell that they left it
                    task.own, job.cached_tokens = slot.own, 0
                work = self._answer(task, request, job, events, slot)
            ended = await self._until_unwanted(job, work)
        except RefusedError as error:
            raise explained(error, self.facts.n_ctx, chat=request.messages is not None) from None
        finally:
            # at the end nobody takes the slot any more, and the client's answer would come too late
            if not ended and task.inputs is None and job.cancelled != "stopping":
                await self._until_free(slot)
            # not before: where the server hangs, all may leave before it is noticed
            self._running.discard(job)
            self._slots.give(slot)
            self._speed = job.speed() or self._speed

    async def _until_unwanted(self, job: Job, work: Coroutine[Any, Any, bool]) -> bool:
        working = asyncio.ensure_future(work)
        unwanted = asyncio.ensure_future(job.unwanted.wait())
        try:
            await asyncio.wait({working, unwanted}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            unwanted.cancel()
            if not working.done():
                working.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await working
        job.check()
        return working.result()

    async def _answer(self, task: Task, request: Request, job: Job, events: Events, slot: Slot) -> bool:
        """Whether the server came to its end; else it is still to notice that nobody listens."""
        if task.fill and self._filler:
            task.body["prompt"] = await self._filler.prompt(*task.fill)
        answer = Answer(request, task, job, self.model.name)
        job.reply = answer.reply
        ended = True

        async def rendered() -> bool:
            # at the end it does not matter
            told = request.messages is None or job.cancelled == "stopping"
            return told or await self._is_processing(slot)

        stream = self._http.events(task.path, task.body)
        event = await self._renewal.first(stream, rendered)
        async with contextlib.aclosing(stream):
            while event is not None:
                self._has_moved()
                for chunk in answer.feed(event):
                    answers.put(events, {"body": b"data: " + answers.encode(chunk)}, job)
                if job.completion_tokens:
                    slot.unread = 0
                if answer.stopped:
                    ended = False
                    break
                if not job.completion_tokens:
                    budget.refuse_prompt(job, job.prompt_tokens, answers=True)
                elif not answer.ended and (job.finishing or answer.used_up):
                    ended = False
                    break
                event = await anext(stream, None)
        for chunk in answer.finish():
            answers.put(events, {"body": b"data: " + answers.encode(chunk)}, job)
        if request.stream:
            answers.put(events, {"body": b"data: [DONE]"}, job)
        else:
            job.answer = answer.whole()
        return ended

    async def _until_free(self, slot: Slot) -> None:
        """Waits until the server has noticed that a connection is closed: after its next batch or token."""
        deadline = time.monotonic() + _FREE_SECONDS
        while time.monotonic() < deadline:
            if not await self._is_processing(slot):
                return
            await asyncio.sleep(0.005)

    async def _is_processing(self, slot: Slot) -> bool:
        return bool((await self._http.json("GET", "/slots"))[slot.number]["is_processing"])

    async def tokenize(self, text: str) -> list[int]:
        """See engines.Engine."""
        await asyncio.to_thread(self._planner.check_cost, [text])
        async with self._renewal.using():
            return await self._http.tokens(text, special=True)

    async def detokenize(self, tokens: list[int]) -> str:
        """See engines.Engine."""
        async with self._renewal.using():
            return str((await self._http.json("POST", "/detokenize", {"tokens": tokens}))["content"])

    def close(self) -> None:
        """See engines.Engine."""
        self._server.stop()


def _brief(said: str) -> str:
    """The last telling line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()] or ["?"]
    return next((line for line in lines if line.startswith("Error: ")), lines[-1])[:200]
