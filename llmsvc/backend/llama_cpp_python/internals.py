"""The insides of llama-cpp-python 0.3.36 that are no part of a loaded model; the others are in engine.py.

No other module knows any. What both reach into, and why; each has a test in tests/engine/test_internals.py:

 1. `llama_cpp.llama_model_default_params`: the only way to give llama.cpp a progress callback.
 2. `suppress_stdout_stderr` of `llama` and `_internals`: it turns our own stderr off while a model loads.
 3. `Llama._create_completion`, `create_chat_completion`, `create_embedding`: the app calls them,
    completion.py and embeddings.py take their place. They use `Llama.generate`, `embed`, `set_seed`,
    `n_batch`, `_scores`; in `LlamaContext.decode` a batch begins.
 4. `llama_set_abort_callback`: cancelling within a batch (on the CPU only) and seeing that a batch moves.
 5. `LlamaSampler.add_grammar`: it adds the NULL of a grammar that does not parse, which crashes on first use.
 6. `Llama.tokenize`: chat texts must not forge control tokens.
 7. `RouteErrorHandler.error_message_wrapper`, and `print` in `server.app`: they write prompts to the journal.
 8. `LlamaChatCompletionHandlerRegistry._chat_handlers`, `Llama._chat_handlers`: the chat formats there are;
    a handler asks the Llama that it gets for tokens first, then for a completion.
 9. `json_schema_to_gbnf`: the rule that it calls `root` is the schema's.
10. `llama_cpp._lib`, `_base_path`: a wheel for several processors has its kernels where llama.cpp does not
    look. The library of `_ggml` is another copy of the file, and knows of none.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

from llmsvc.backend.problem import bad

_FOREVER: list[object] = []
"""Callbacks: llama.cpp calls them also while it frees a model, at the very end of the process."""


def module(name: str) -> Any:
    """A module, imported only when the environment is clean."""
    return importlib.import_module(name)


def load_kernels() -> None:
    """Has llama.cpp choose the best of the kernels that it was compiled with for this processor.

    Does nothing where there is no choice, as where it was compiled for this machine alone. By itself it would
    look for them beside the Python interpreter, and in the current directory.
    """
    bindings = module("llama_cpp.llama_cpp")
    if bindings._lib.ggml_backend_reg_count() == 0:
        bindings._lib.ggml_backend_load_all_from_path(str(bindings._base_path).encode())


def chat_formats() -> dict[str, Any]:
    """The chat formats that llama_cpp knows by name and that only write a prompt.

    Handlers that do more, as answer in several steps, have no place for what we do in between.
    """
    handlers = module("llama_cpp.llama_chat_format").LlamaChatCompletionHandlerRegistry()._chat_handlers
    plain = "chat_formatter_to_chat_completion_handler.<locals>.chat_completion_handler"
    return {name: handler for name, handler in handlers.items() if handler.__qualname__ == plain}


def chat_handler(llama: Any, name: str) -> Any:
    """The handler of a chat format, the model's own templates included; None if there is none."""
    return llama._chat_handlers.get(name) or chat_formats().get(name)


class _FormattedError(Exception):
    """Raised out of a chat handler as soon as it has made its prompt."""


class _Asked:
    """Stands for the Llama in a chat handler: takes the prompt and goes no further."""

    verbose = False

    def __init__(self) -> None:
        self.text = ""
        self.add_bos = False

    def tokenize(self, text: bytes, add_bos: bool = True, special: bool = False) -> list[int]:
        self.text, self.add_bos = text.decode(), add_bos
        return []

    def create_completion(self, *, stop: list[str], **_arguments: Any) -> None:
        raise _FormattedError(stop)


def formatted(handler: Any, **arguments: Any) -> tuple[str, bool, list[str]]:
    """What a chat handler makes of its arguments: the prompt, whether a first token is still to be put before
    it, and the texts that end the answer."""
    asked = _Asked()
    try:
        handler(llama=asked, **arguments)
    except _FormattedError as done:
        return asked.text, asked.add_bos, [stop for stop in done.args[0] if stop]
    raise RuntimeError("the chat handler makes no completion")


def log_to(receive: Callable[[int, str], None]) -> None:
    """Has `receive` called, from any thread, with the level and the text of all that llama.cpp says."""
    llama_cpp = module("llama_cpp")

    def said(level: int, text: bytes, _data: object) -> None:
        receive(level, text.decode("utf-8", "replace"))

    callback = llama_cpp.llama_log_callback(said)
    llama_cpp.llama_log_set(callback, ctypes.c_void_p(0))
    _FOREVER.append(callback)


def silence() -> None:
    """Keeps llama_cpp from writing to, and from closing, our stdout and stderr."""
    warnings.filterwarnings("ignore", module=r"llama_cpp\.")
    llama_cpp, llama = module("llama_cpp"), module("llama_cpp.llama")
    internals, app = module("llama_cpp._internals"), module("llama_cpp.server.app")

    def nothing(*_args: Any, **_kwargs: Any) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    llama.suppress_stdout_stderr = nothing
    internals.suppress_stdout_stderr = nothing
    app.print = lambda *_args, **_kwargs: None
    app.RouteErrorHandler.error_message_wrapper = lambda self, error, body=None: (500, {})
    add_grammar = internals.LlamaSampler.add_grammar

    def guarded(self: Any, model: Any, grammar: Any) -> None:
        sampler = llama_cpp.llama_sampler_init_grammar(
            model.vocab, grammar._grammar.encode(), grammar._root.encode()
        )
        if not sampler:
            raise bad("the grammar does not parse", None, "unsupported_schema")
        llama_cpp.llama_sampler_free(sampler)
        add_grammar(self, model, grammar)

    internals.LlamaSampler.add_grammar = guarded


@contextlib.contextmanager
def progress_callback(progress: Callable[[float], None]) -> Iterator[None]:
    """Has `progress` called with 0.0 to 1.0 while a model is read in the body of the with statement."""
    bindings = module("llama_cpp.llama_cpp")
    original = bindings.llama_model_default_params

    def tell(fraction: float, _data: object) -> bool:
        progress(fraction)
        return True

    callback = bindings.llama_progress_callback(tell)

    def params() -> Any:
        made = original()
        made.progress_callback = callback
        return made

    bindings.llama_model_default_params = params
    try:
        yield
    finally:
        bindings.llama_model_default_params = original


def loaded() -> Any:
    """The Llama that create_app() has made."""
    proxy = module("llama_cpp.server.app")._llama_proxy
    assert proxy is not None
    return proxy()
