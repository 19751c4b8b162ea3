"""One test for each inside of llama-cpp-python that llmsvc/backend/internals.py lists, by its number."""

import importlib.metadata
import inspect

import llama_cpp
import llama_cpp._internals
import llama_cpp.llama
import llama_cpp.llama_chat_format
import llama_cpp.server.app
import llama_cpp.server.settings
import pytest

from llmsvc.library import settings


@pytest.fixture(scope="module")
def llama(models):
    model = llama_cpp.Llama(
        str(models / "smollm2.gguf"), n_ctx=256, n_threads=1, n_threads_batch=1, verbose=False
    )
    yield model
    model.close()


def calls(function, name):
    return name in inspect.getsource(function)


def test_the_version_is_the_one_that_was_tried():
    assert importlib.metadata.version("llama-cpp-python") == "0.3.36"


def test_1_model_parameters_come_from_the_bindings_and_have_a_progress_callback():
    assert calls(llama_cpp.Llama.__init__, "llama_cpp.llama_model_default_params()")
    assert llama_cpp.llama.llama_cpp.llama_model_default_params().progress_callback is not None


def test_2_stderr_is_suppressed_through_names_of_the_modules():
    assert calls(llama_cpp._internals.LlamaModel.__init__, "suppress_stdout_stderr(disable=verbose)")
    assert hasattr(llama_cpp.llama, "suppress_stdout_stderr")


def test_3_completions_go_through_the_methods_that_are_wrapped(llama):
    assert calls(llama_cpp.Llama._create_completion, "self.generate(")
    assert calls(llama_cpp.Llama.create_completion, "self._create_completion(")
    assert calls(llama_cpp.Llama.eval, "self._ctx.decode(")
    assert calls(llama_cpp.Llama.embed, "self._ctx.decode(")
    assert calls(llama_cpp.server.app.create_chat_completion, "llama_cpp.Llama.create_chat_completion")
    assert calls(llama_cpp.server.app.create_chat_completion, "llama.create_chat_completion")
    seen = []
    original, llama.generate = (
        llama.generate,
        lambda tokens, **kwargs: seen.append(tokens) or original(tokens, **kwargs),
    )
    answer = llama.create_completion("Hello there", max_tokens=2)
    llama.generate = original
    assert len(seen[0]) == answer["usage"]["prompt_tokens"]


def test_4_an_abort_ends_a_decode_and_the_next_one_works(llama):
    wanted = [True]
    callback = llama_cpp.ggml_abort_callback(lambda _data: wanted[0])
    llama_cpp.llama_set_abort_callback(llama.ctx, callback, None)
    with pytest.raises(RuntimeError, match="llama_decode returned 2"):
        llama.create_completion("One two three four", max_tokens=2)
    wanted[0] = False
    llama.reset()
    assert llama.create_completion("One two three four", max_tokens=2)["usage"]["completion_tokens"] == 2


def test_5_a_grammar_that_does_not_parse_is_null(llama):
    vocab = llama._model.vocab
    assert not llama_cpp.llama_sampler_init_grammar(vocab, b"root ::= (", b"root")
    good = llama_cpp.llama_sampler_init_grammar(vocab, b'root ::= "a"', b"root")
    assert good
    llama_cpp.llama_sampler_free(good)
    assert calls(llama_cpp.Llama._init_sampler, "add_grammar(")


def test_6_chats_are_made_into_tokens_by_the_method_that_is_wrapped():
    source = inspect.getsource(llama_cpp.llama_chat_format.chat_formatter_to_chat_completion_handler)
    assert "prompt = llama.tokenize(" in source


def test_7_the_app_logs_through_what_is_silenced():
    handler = llama_cpp.server.app.RouteErrorHandler
    assert calls(handler.get_route_handler, "self.error_message_wrapper(error=exc, body=body)")
    assert calls(handler.error_message_wrapper, "traceback.print_exc")
    assert calls(llama_cpp.server.app.get_event_publisher, "print(")


def test_8_chat_formats_are_registered_under_their_names(llama):
    registry = llama_cpp.llama_chat_format.LlamaChatCompletionHandlerRegistry()
    assert {"chatml", "llama-2", "mistral-instruct"} <= set(registry._chat_handlers)
    assert "chat_template.default" in llama._chat_handlers


def test_every_setting_of_the_engine_is_ours_too_or_refused_with_a_reason():
    theirs = {
        name.upper()
        for model in (llama_cpp.server.settings.ModelSettings, llama_cpp.server.settings.ServerSettings)
        for name in model.model_fields
    }
    ours = {setting.key for setting in settings.SETTINGS} - settings.OURS
    assert ours | (settings.REFUSED.keys() - {"CONFIG_FILE"}) == theirs
    assert not ours & settings.REFUSED.keys()
