"""The loaded model, counted, cancelled and guarded through llama-cpp-python's insides (see internals.py)."""

from __future__ import annotations

import concurrent.futures
import ctypes
import json
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from llmsvc.backend import internals
from llmsvc.backend.bodies import Model
from llmsvc.backend.jobs import Job, start
from llmsvc.backend.llamalog import Log
from llmsvc.backend.loading import exit_now
from llmsvc.backend.problem import bad
from llmsvc.backend.vocabulary import Vocabulary, tokenizer
from llmsvc.errors import Error, ModelError, SettingError
from llmsvc.library.gguf import Header
from llmsvc.library.settings import DEFAULT_N_CTX, OURS, ModelSettings

_CONTROL, _UNKNOWN = 1 << 3, 1 << 0  # enum llama_token_attr


class Engine:
    """One loaded model. All but tokenize() and detokenize() is for one job at a time."""

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
        self.version: str = internals.module("llama_cpp").__version__
        self._speed: float | None = None
        self._vocabulary: concurrent.futures.Future[Vocabulary] | None = None
        self._gpu_lost = gpu_lost
        self._log = Log(gpu_lost)
        _check_chat_format(settings)
        internals.silence()
        self._log.start()
        try:
            with internals.progress_callback(progress):
                self.app = internals.module("llama_cpp.server.app").create_app(
                    server_settings=server.ServerSettings(interrupt_requests=False, disable_ping_events=True),
                    model_settings=[server.ModelSettings(**_engine_settings(settings, header))],
                )
        except MemoryError:
            raise Error("not enough memory for the context; a smaller N_CTX needs less") from None
        except internals.module("jinja2").TemplateError as error:
            raise ModelError(f"its chat template is broken: {_brief(error)}", file=settings.model) from None
        except (ValueError, RuntimeError) as error:
            raise self._load_error(error) from None
        self._llama = internals.loaded()
        try:
            self._inspect()
        except Error:
            self.close()
            raise

    def _inspect(self) -> None:
        """Hooks into the loaded model and learns what it is."""
        llama_cpp, settings = internals.module("llama_cpp"), self._settings
        self._hook()
        self.model = Model(
            name=settings.name,
            n_vocab=self._llama.n_vocab(),
            embedding=settings["EMBEDDING"],
            logits_all=settings["LOGITS_ALL"],
        )
        self.model_file = settings.model.name
        self.n_ctx: int = self._llama.n_ctx()
        self.n_batch: int = self._llama.n_batch
        self.n_ctx_train: int = self._llama._model.n_ctx_train()
        layers = int(llama_cpp.llama_model_n_layer(self._llama.model))
        self.n_gpu_layers, self.n_layers = self._log.offloaded or (0, layers)
        self.device = ", ".join(self._log.devices) if self.n_gpu_layers else "cpu"
        if settings["REQUIRE_GPU"] and not self.n_gpu_layers:
            words = self._log.gpu() or "llama.cpp found none"
            self._gpu_lost(words)
            raise Error(f"no layer got onto a GPU: {words}")

    def self_test(self) -> None:
        """Makes one token, or one embedding, the way a request would.

        :raises SettingError, ModelError: the chat format or the template in the GGUF fails
        :raises Error: the model fails
        """
        job = Job("self-test")
        self.begin(job)
        try:
            if self.model.embedding:
                self._llama.create_embedding("Hello")
            else:
                hello = [{"role": "user", "content": "Hello"}]
                self._llama.create_chat_completion(messages=hello, max_tokens=1, temperature=0.0, seed=0)
        except Exception as error:  # a template can raise whatever it likes
            text = _brief(error)
            if job.rendered or self.model.embedding:
                raise Error(f"the model loads but fails to answer: {self._log.gpu() or text}") from None
            if self._settings["CHAT_FORMAT"]:
                raise self._settings.error("CHAT_FORMAT", f"fails with this model: {text}") from None
            raise ModelError(
                f"its chat template fails: {text}", file=self._settings.model, hint="set CHAT_FORMAT"
            ) from None
        finally:
            self.end(job)
            self._log.stop()

    def begin(self, job: Job) -> None:
        """The job is the one that runs from now on."""
        start(job)
        self.moved = time.monotonic()
        self._job = job

    def end(self, job: Job) -> None:
        """The job is over; after a failure the context starts from nothing."""
        self._job = None
        self._speed = job.speed() or self._speed
        if job.failure or job.cancelled:
            self._llama.reset()

    @property
    def tokens_per_second(self) -> float | None:
        """How fast the running job is, or else the last one was, at making tokens; None before the first."""
        return (self._job and self._job.speed()) or self._speed

    @property
    def vocabulary(self) -> Vocabulary:
        """What the model's tokens look like."""
        assert self._vocabulary is not None
        return self._vocabulary.result()

    def alive(self, seconds: float) -> bool:
        """Whether the running job moved within the last `seconds`; true when idle."""
        return self._job is None or time.monotonic() - self.moved < seconds

    def tokenize(self, text: str) -> list[int]:
        """The tokens of a text, control tokens in it included, with the model's own first token."""
        return list(self._tokenize(text.encode(), True, True))

    def detokenize(self, tokens: list[int]) -> str:
        """The text of tokens, which must be within the vocabulary."""
        return bytes(self._llama.detokenize(tokens)).decode("utf-8", "replace")

    def check_schema(self, schema: dict[str, Any], param: str) -> None:
        """Tries the schema as a grammar.

        :raises ApiError: 400, llama.cpp cannot use it
        """
        llama_cpp = internals.module("llama_cpp")
        refused = bad("this JSON schema cannot be turned into a grammar", param, "unsupported_schema")
        try:
            grammar = llama_cpp.LlamaGrammar.from_json_schema(json.dumps(schema), verbose=False)
        except Exception:  # the converter asserts, looks up and recurses as it likes
            raise refused from None
        sampler = llama_cpp.llama_sampler_init_grammar(
            self._llama._model.vocab, grammar._grammar.encode(), grammar._root.encode()
        )
        if not sampler:
            raise refused
        llama_cpp.llama_sampler_free(sampler)

    def close(self) -> None:
        """Frees the model's memory, the GPU's too."""
        if self._vocabulary:
            self._vocabulary.result()
        self._llama.close()

    def _load_error(self, error: Exception) -> Error:
        """What a failure to load comes down to."""
        if memory := self._log.memory():
            return Error(f"not enough memory: {memory}")
        if gpu := self._log.gpu():
            self._gpu_lost(gpu)
            return Error(f"the GPU fails: {gpu}")
        reason = self._log.reason() or _brief(error)
        if "llama_context" in str(error):
            return SettingError(f"llama.cpp refuses these settings: {reason}", file=self._settings.file)
        if "LoRA" in str(error):
            return self._settings.error("LORA_PATH", "is not an adapter for this model")
        return ModelError(f"llama.cpp cannot load it: {reason}", file=self._settings.model)

    def _hook(self) -> None:
        llama_cpp = internals.module("llama_cpp")
        llama = self._llama
        known = {**internals.chat_formats(), **llama._chat_handlers}
        if not llama.chat_handler and llama.chat_format not in known:
            raise self._settings.error("CHAT_FORMAT", "the GGUF has no template of that name")
        self._tokenize = llama.tokenize
        llama.tokenize = tokenizer(llama.tokenize)
        self._eog: Callable[[int], bool] = lambda token: llama_cpp.llama_vocab_is_eog(
            llama._model.vocab, token
        )
        llama.generate = self._counting(llama.generate)
        llama._create_completion = self._noting(llama._create_completion)
        llama._ctx.decode = self._checking(llama._ctx.decode)
        llama.create_chat_completion = self._chatting(llama.create_chat_completion)
        # the app calls the class's method for streams
        llama_cpp.Llama.create_chat_completion = lambda _llama, **kwargs: llama.create_chat_completion(
            **kwargs
        )
        self._abort = llama_cpp.ggml_abort_callback(self._abort_wanted)
        llama_cpp.llama_set_abort_callback(llama.ctx, self._abort, ctypes.c_void_p(0))
        # a large vocabulary takes 0.2 s, as long as the self-test does meanwhile
        pool = concurrent.futures.ThreadPoolExecutor(max_workers=1)
        self._vocabulary = pool.submit(self._read_vocabulary)
        pool.shutdown(wait=False)

    def _read_vocabulary(self) -> Vocabulary:
        llama_cpp, vocab = internals.module("llama_cpp"), self._llama._model.vocab
        text, attributes = llama_cpp.llama_vocab_get_text, llama_cpp.llama_vocab_get_attr
        return Vocabulary(
            (text(vocab, token), bool(attributes(vocab, token) & (_CONTROL | _UNKNOWN)))
            for token in range(self._llama.n_vocab())
        )

    def _abort_wanted(self, _data: object) -> bool:
        self.moved = time.monotonic()
        return self._job is not None and self._job.cancelled is not None

    def _checking(self, decode: Callable[..., None]) -> Callable[..., None]:
        def checked(batch: Any) -> None:
            job = self._job
            if job:
                job.check()
            self.moved = time.monotonic()
            try:
                decode(batch)
            except RuntimeError:
                if job:
                    job.check()
                if self._log.lost:
                    # most drivers end the process themselves; with the others every request would fail
                    exit_now(1)
                raise

        return checked

    def _counting(self, generate: Callable[..., Iterator[int]]) -> Callable[..., Iterator[int]]:
        def counted(tokens: Any, *args: Any, **kwargs: Any) -> Iterator[int]:
            job = self._job
            assert job is not None
            job.prompt_tokens = len(tokens)
            job.check()
            produced: Iterator[int] = generate(tokens, *args, **kwargs)
            for token in produced:
                job.check()
                self.moved = job.last_token = time.monotonic()
                job.first_token = job.first_token or job.last_token
                if not self._eog(token):
                    job.completion_tokens += 1
                yield token

        return counted

    def _noting(self, create: Callable[..., Iterator[Any]]) -> Callable[..., Iterator[Any]]:
        def noted(*args: Any, **kwargs: Any) -> Iterator[Any]:
            job = self._job
            assert job is not None
            job.rendered = True
            try:
                yield from create(*args, **kwargs)
            except Exception as error:
                job.failure = job.failure or error
                raise

        return noted

    def _chatting(self, create: Callable[..., Any]) -> Callable[..., Any]:
        def chatted(**kwargs: Any) -> Any:
            job = self._job
            assert job is not None
            try:
                return create(**kwargs)
            except Exception as error:
                job.failure = job.failure or error
                raise

        return chatted


def _brief(error: Exception) -> str:
    """One short line."""
    return " ".join(str(error).split())[:200] or type(error).__name__


def _engine_settings(settings: ModelSettings, header: Header) -> dict[str, Any]:
    """The keyword arguments of llama_cpp.server's ModelSettings."""
    values = {
        key.lower(): value for key, value in settings.values.items() if key not in OURS and value is not None
    }
    values |= {"model": str(settings.model), "model_alias": settings.name, "verbose": False}
    if "lora_path" in values:
        values["lora_path"] = str(values["lora_path"])
    values.setdefault("n_ctx", min(header.context_length or DEFAULT_N_CTX, DEFAULT_N_CTX))
    offload = settings["GPU"] != "none" and internals.module("llama_cpp").llama_supports_gpu_offload()
    values.setdefault("n_gpu_layers", -1 if offload else 0)
    values.setdefault("n_threads", max(len(os.sched_getaffinity(0)) - 1, 1))
    values.setdefault("n_threads_batch", values["n_threads"])
    if settings["EMBEDDING"]:
        # an input is read as one batch, and what does not fit into it would be cut off
        context = values["n_ctx"] or header.context_length or DEFAULT_N_CTX
        values |= {key: context for key in ("n_batch", "n_ubatch") if key.upper() not in settings.lines}
    return values


def _check_chat_format(settings: ModelSettings) -> None:
    """Refuses a CHAT_FORMAT that llama_cpp does not know, before the model is read."""
    wanted = settings["CHAT_FORMAT"]
    if wanted and wanted not in internals.chat_formats() and not wanted.startswith("chat_template."):
        allowed = ", ".join(sorted(internals.chat_formats()))
        raise settings.error("CHAT_FORMAT", f"must be one of {allowed}, not {wanted[:40]!r}")
