"""The loaded model, counted, cancelled and guarded through llama-cpp-python's insides (see internals.py).

What one request leaves behind for the next: the keys and values of its prompt stay in the context, and a
request that begins with the same tokens is answered sooner for it. Somebody who guesses the beginning of
another's prompt can tell from the time to the first token; nothing else is to be seen of it. Seed, sampler
and penalties start anew with each request.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import ctypes
import time
from collections.abc import Callable, Iterator
from typing import Any

from llmsvc.backend.answers import Events
from llmsvc.backend.bodies import Model, Request, chat, embedding
from llmsvc.backend.engines import Facts
from llmsvc.backend.jobs import Job, start
from llmsvc.backend.llama_cpp_python import batches, completion, embeddings, internals, options
from llmsvc.backend.llama_cpp_python.calling import call
from llmsvc.backend.llama_cpp_python.completion import Source, Task
from llmsvc.backend.llama_cpp_python.embeddings import Inputs
from llmsvc.backend.llama_cpp_python.planning import Planner
from llmsvc.backend.llama_cpp_python.templates import Template
from llmsvc.backend.llama_cpp_python.tokens import Tokens
from llmsvc.backend.llamalog import Log
from llmsvc.backend.loading import exit_now
from llmsvc.backend.problem import ApiError
from llmsvc.backend.vocabulary import Vocabulary, tokenizer
from llmsvc.errors import Error, ModelError, SettingError
from llmsvc.library.gguf import Header
from llmsvc.library.settings import ModelSettings


class Engine:
    """One loaded model. All but plan(), tokenize() and detokenize() is for one job at a time."""

    def __init__(
        self,
        settings: ModelSettings,
        header: Header,
        progress: Callable[[float], None],
        gpu_lost: Callable[[str], None],
    ) -> None:
        """Loads the model.

        :param progress: called with 0.0 to 1.0 while the file is read, from this thread
        :param gpu_lost: called with the driver's words when a GPU fails, from any thread
        :raises SettingError, ModelError: no restart can mend it
        :raises Error: a want of memory, or trouble with a GPU
        """
        server = internals.module("llama_cpp.server.settings")
        self._settings = settings
        self._job: Job | None = None
        self.moved = time.monotonic()
        """When the model last did something, by time.monotonic()."""
        self.slots = 1
        self._speed: float | None = None
        self._vocabulary: concurrent.futures.Future[Vocabulary] | None = None
        self._log = Log(gpu_lost)
        internals.log_to(self._log.receive)
        internals.load_kernels()
        options.check_chat_format(settings)
        internals.silence()
        self._log.start()
        try:
            with internals.progress_callback(progress):
                self.app = internals.module("llama_cpp.server.app").create_app(
                    server_settings=server.ServerSettings(interrupt_requests=False, disable_ping_events=True),
                    model_settings=[server.ModelSettings(**options.engine_settings(settings, header))],
                )
        except MemoryError:
            raise Error("not enough memory for the context; a smaller N_CTX needs less") from None
        except internals.module("jinja2").TemplateError as error:
            raise ModelError(f"its chat template is broken: {_brief(error)}", file=settings.model) from None
        except (ValueError, RuntimeError) as error:
            raise self._log.load_error(settings, _brief(error)) from None
        self._llama = internals.loaded()
        try:
            self._inspect()
        except Error:
            self.close()
            raise

    def _inspect(self) -> None:
        """Hooks into the loaded model and learns what it is."""
        llama_cpp, settings, llama = internals.module("llama_cpp"), self._settings, self._llama
        # llama.cpp rounds N_CTX up, llama_cpp's list of the tokens in the context does not
        self.n_ctx: int = min(llama.n_ctx(), len(llama.input_ids))
        layers = int(llama_cpp.llama_model_n_layer(llama.model))
        n_gpu_layers, n_layers = self._log.offloaded or (0, layers)
        self.facts = Facts(
            engine="llama-cpp-python",
            engine_version=llama_cpp.__version__,
            n_ctx=self.n_ctx,
            n_ctx_train=llama._model.n_ctx_train(),
            device=", ".join(self._log.devices) if n_gpu_layers else "cpu",
            n_gpu_layers=n_gpu_layers,
            n_layers=n_layers,
        )
        self._log.check_gpu(settings, n_gpu_layers)
        if internals.chat_handler(llama, llama.chat_format) is None:
            raise self._settings.error("CHAT_FORMAT", "the GGUF has no template of that name")
        # a batch on a GPU cannot be aborted, so it must be short
        self._batches = batches.Batches(llama, bounded=n_gpu_layers > 0 and not settings["EMBEDDING"])
        self._hook()
        self._planner = self._plan_with(Template(llama, settings["CHAT_TEMPLATE_KWARGS"] or {}))
        self.model = Model(
            name=settings.name,
            file=settings.model.name,
            n_vocab=llama.n_vocab(),
            embedding=settings["EMBEDDING"],
            prompt_logits=settings["LOGITS_ALL"],
            can_go_on=True,
            can_call=self._planner.template.syntax is not None,
            can_fill=self._planner.fill is not None,
        )

    def self_test(self) -> None:
        """Makes one token, or one embedding, the way a request would.

        :raises SettingError, ModelError: the chat format or the template in the GGUF fails
        :raises Error: the model fails
        """
        job = Job("self-test")
        self.begin(job)
        try:
            if self.model.embedding:
                job.task = self.plan(embedding({"input": "Hello"}, self.model))
                self._embedding()
            else:
                hello = [{"role": "user", "content": "Hello"}]
                job.task = self.plan(chat({"messages": hello}, self.model))
                next(self._completing(max_tokens=1, temperature=0.0, seed=0))
                self._batches.fit()
        except ApiError as error:
            raise self._template_error(_brief(error.__cause__ or error)) from None
        except Exception as error:  # whatever llama_cpp raises
            raise Error(f"the model loads but fails to answer: {self._log.gpu() or _brief(error)}") from None
        finally:
            self.end(job)
            self._log.stop()

    def plan(self, request: Request) -> Task | Inputs:
        """What the model is to do for a request; see Planner.plan()."""
        return self._planner.plan(request)

    async def count(self, task: Task) -> int:
        """See engines.Engine."""
        return task.prompt_tokens

    async def run(self, request: Request, job: Job, events: Events) -> None:
        """See engines.Engine."""
        self.begin(job)
        try:
            await self.app(*call(request, job, events))
        finally:
            self.end(job)
        if job.failure:
            raise job.failure

    def begin(self, job: Job) -> None:
        """The job is the one that runs from now on."""
        start(job)
        self.moved = time.monotonic()
        self._job = job

    def end(self, job: Job) -> None:
        """The job is over; after a failure the context starts from nothing."""
        self._job = None
        self._speed = job.speed() or self._speed
        self._batches.adapt()
        if job.failure or job.cancelled:
            self._llama.reset()

    @property
    def tokens_per_second(self) -> float | None:
        """How fast the running job is, or else the last one was, at making tokens; None before the first."""
        return (self._job and self._job.speed()) or self._speed

    def alive(self, seconds: float) -> bool:
        """Whether the running job moved within the last `seconds`; true when idle."""
        return self._job is None or time.monotonic() - self.moved < seconds

    async def tokenize(self, text: str) -> list[int]:
        """See engines.Engine."""
        self._planner.refuse_costly([text])
        return list(await asyncio.to_thread(self._tokenize, text.encode(), True, True))

    async def detokenize(self, tokens: list[int]) -> str:
        """See engines.Engine."""
        pieces = await asyncio.to_thread(lambda: list(map(self._tokens.text, tokens)))
        return b"".join(pieces).decode("utf-8", "replace")

    def close(self) -> None:
        """Frees the model's memory, the GPU's too."""
        if self._vocabulary:
            self._vocabulary.result()
        self._llama.close()

    def _template_error(self, said: str) -> SettingError:
        if self._settings["CHAT_FORMAT"]:
            return self._settings.error("CHAT_FORMAT", f"fails with this model: {said}")
        return ModelError(
            f"its chat template fails: {said}", file=self._settings.model, hint="set CHAT_FORMAT"
        )

    def _hook(self) -> None:
        llama_cpp, llama = internals.module("llama_cpp"), self._llama
        self._tokenize = llama.tokenize
        llama.tokenize = tokenizer(llama.tokenize)
        llama._create_completion = self._completing
        llama.create_chat_completion = self._chatting
        # the app calls the class's method for streams
        llama_cpp.Llama.create_chat_completion = lambda _llama, **given: self._chatting(**given)
        llama.create_embedding = self._embedding
        llama._ctx.decode = self._checking(llama._ctx.decode)
        self._abort = llama_cpp.ggml_abort_callback(self._abort_wanted)
        llama_cpp.llama_set_abort_callback(llama.ctx, self._abort, ctypes.c_void_p(0))

    def _plan_with(self, template: Template) -> Planner:
        llama = self._llama
        tokens = self._tokens = Tokens(llama, self._tokenize, template)
        # a large vocabulary takes 0.2 s, as long as the self-test does meanwhile
        pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._vocabulary = pool.submit(tokens.vocabulary)
        pool.shutdown(wait=False)
        self._source = Source(
            name=self._settings.name,
            n_ctx=self.n_ctx,
            generate=llama.generate,
            set_seed=llama.set_seed,
            text=tokens.answer,
            is_end=tokens.is_end,
            ends=lambda: tokens.ends,
            logits=self._logits,
            prompt_logits=lambda place: llama._scores[place],
        )
        return Planner(
            vocab=llama._model.vocab,
            vocabulary=self._vocabulary.result,
            template=template,
            tokenize=llama.tokenize,
            n_ctx=self.n_ctx,
            n_batch=llama.n_batch,
            # without pooling Llama.embed mixes the inputs of a batch up
            together=llama.pooling_type() != internals.module("llama_cpp").LLAMA_POOLING_TYPE_NONE,
            around=tokens.around(),
            fill=tokens.fill(),
        )

    def _logits(self) -> Any:
        numpy, llama_cpp = internals.module("numpy"), internals.module("llama_cpp")
        pointer = llama_cpp.llama_get_logits_ith(self._llama.ctx, -1)
        return numpy.ctypeslib.as_array(pointer, shape=(self.model.n_vocab,))

    def _abort_wanted(self, _data: object) -> bool:
        self.moved = time.monotonic()
        return self._job is not None and self._job.cancelled is not None

    def _checking(self, decode: Callable[..., None]) -> Callable[..., None]:
        def checked(batch: Any) -> None:
            job = self._job
            if job:
                job.check()
            begun = self.moved = time.monotonic()
            try:
                decode(batch)
            except RuntimeError:
                if job:
                    job.check()
                if self._log.lost:
                    # most drivers end the process themselves; with the others every request would fail
                    exit_now(1)
                raise
            self._batches.took(time.monotonic() - begun)

        return checked

    def _completing(self, **given: Any) -> Iterator[Any]:
        """Llama._create_completion, for the job that runs."""
        job = self._job
        assert job is not None and isinstance(job.task, Task)
        with job.noting_failure():
            yield from completion.run(job.task, job, self._source, given)

    def _chatting(self, **given: Any) -> Any:
        """Llama.create_chat_completion: a stream's chunks, or one value for an answer in one piece."""
        chunks = self._completing(**given)
        return chunks if given.get("stream") else next(chunks)

    def _embedding(self, **_given: Any) -> dict[str, Any]:
        """Llama.create_embedding, for the job that runs."""
        job = self._job
        assert job is not None and isinstance(job.task, Inputs)
        with job.noting_failure():
            embeddings.run(job.task, job, self.model.name, self._llama.embed)
        return {}


def _brief(error: BaseException) -> str:
    """One short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__
