"""One test for each inside of llama-cpp-python that its internals.py lists, by its number."""

import importlib.metadata
import inspect

import llama_cpp
import llama_cpp._internals
import llama_cpp.llama
import llama_cpp.llama_chat_format
import llama_cpp.llama_grammar
import llama_cpp.server.app
import llama_cpp.server.settings
import llama_cpp.server.types
import numpy
import pytest

from llmsvc.backend.llama_cpp_python import completion, grammars, internals
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


def test_3_the_app_completes_through_the_methods_that_are_replaced(llama):
    assert calls(llama_cpp.Llama.create_completion, "self._create_completion(")
    assert calls(llama_cpp.Llama.__call__, "self.create_completion(")
    assert calls(llama_cpp.server.app.create_completion, "llama_cpp.Llama.__call__")
    assert calls(llama_cpp.server.app.create_chat_completion, "llama_cpp.Llama.create_chat_completion")
    assert calls(llama_cpp.server.app.create_chat_completion, "llama.create_chat_completion")
    assert calls(llama_cpp.Llama.eval, "self._ctx.decode(")
    assert calls(llama_cpp.Llama.embed, "self._ctx.decode(")
    # a value that is lowered between two requests counts from the next one on
    assert calls(llama_cpp.Llama.eval, "range(0, len(tokens), self.n_batch)")


def test_3_generate_takes_what_the_app_is_asked_for(llama):
    known = inspect.signature(llama_cpp.Llama.generate).parameters.keys()
    assert set(completion.SAMPLING.values()) | {"grammar", "logits_processor"} <= known
    assert (
        completion.SAMPLING.keys() <= inspect.signature(llama_cpp.Llama._create_completion).parameters.keys()
    )
    assert (
        completion.SAMPLING.keys() <= llama_cpp.server.types.CreateChatCompletionRequest.model_fields.keys()
    )
    prompt = llama.tokenize(b"One two three")
    llama.set_seed(7)
    first = [token for token, _ in zip(llama.generate(prompt, temp=1.0), range(5), strict=False)]
    assert len(first) == 5
    llama.set_seed(7)
    assert first == [token for token, _ in zip(llama.generate(prompt, temp=1.0), range(5), strict=False)]
    logits = numpy.ctypeslib.as_array(llama_cpp.llama_get_logits_ith(llama.ctx, -1), (llama.n_vocab(),))
    assert numpy.isfinite(logits).all()


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


def test_6_tokens_are_made_by_the_method_that_is_wrapped():
    source = inspect.getsource(llama_cpp.llama_chat_format.chat_formatter_to_chat_completion_handler)
    assert "prompt = llama.tokenize(" in source
    assert calls(llama_cpp.Llama.embed, "self.tokenize(")


def test_7_the_app_logs_through_what_is_silenced():
    handler = llama_cpp.server.app.RouteErrorHandler
    assert calls(handler.get_route_handler, "self.error_message_wrapper(error=exc, body=body)")
    assert calls(handler.error_message_wrapper, "traceback.print_exc")
    assert calls(llama_cpp.server.app.get_event_publisher, "print(")


def test_8_chat_formats_are_registered_under_their_names(llama):
    assert {"chatml", "llama-2", "mistral-instruct"} <= internals.chat_formats().keys()
    assert "chat_template.default" in llama._chat_handlers
    registry = llama_cpp.llama_chat_format.LlamaChatCompletionHandlerRegistry()
    several_steps = {"functionary", "functionary-v1", "functionary-v2", "chatml-function-calling"}
    assert registry._chat_handlers.keys() - internals.chat_formats().keys() == several_steps


def test_8_a_handler_tells_its_prompt_before_anything_is_generated(llama):
    messages = [{"role": "user", "content": "Hello"}]
    handler = internals.chat_handler(llama, "chat_template.default")
    text, add_bos, stops = internals.formatted(handler, messages=messages)
    assert text.endswith("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n")
    assert (add_bos, stops) == (False, ["<|im_end|>"])
    for name in internals.chat_formats():
        assert internals.formatted(internals.chat_handler(llama, name), messages=messages)[0]


def test_9_the_rule_called_root_is_the_schemas():
    text = llama_cpp.llama_grammar.json_schema_to_gbnf('{"properties": {"root": {"type": "string"}}}')
    assert text.count("\nroot ::= ") + text.startswith("root ::= ") == 1
    assert "root" not in text.replace("root ::=", "").replace("root-", "").replace('\\"root\\"', "")


def test_9_texts_are_mended_where_the_grammar_allows_more_than_json(llama):
    text = grammars.of_schema({"type": "string"}, "x")
    assert all(mended in text and raw not in text for raw, mended in (grammars._PLAIN, grammars._ESCAPED))
    assert grammars.made(llama._model.vocab, text, "x")


def test_10_the_kernels_are_loaded_from_beside_the_library():
    internals.load_kernels()
    library = llama_cpp.llama_cpp._lib
    found = library.ggml_backend_reg_count()
    assert found >= 1
    internals.load_kernels()
    assert library.ggml_backend_reg_count() == found


def test_every_setting_of_the_engine_is_ours_too_or_refused_with_a_reason():
    theirs = {
        name.upper()
        for model in (llama_cpp.server.settings.ModelSettings, llama_cpp.server.settings.ServerSettings)
        for name in model.model_fields
    }
    ours = {setting.key for setting in settings.SETTINGS} - settings.OURS
    assert ours | (settings.REFUSED.keys() - {"CONFIG_FILE"}) == theirs
    assert not ours & settings.REFUSED.keys()
