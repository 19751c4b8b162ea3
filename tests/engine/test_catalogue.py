from __future__ import annotations

from llama_cpp.llama_chat_format import LlamaChatCompletionHandlerRegistry

from llmsvc.library import catalogue


def test_the_engine_knows_the_chat_formats_of_the_catalogue() -> None:
    known = LlamaChatCompletionHandlerRegistry()._chat_handlers
    formats = {entry.chat_format for entry in catalogue.load().values()} - {None}
    assert formats
    assert formats <= set(known)
