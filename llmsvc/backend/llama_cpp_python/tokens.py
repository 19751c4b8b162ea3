"""What the loaded model's tokens are: their text, what goes around a prompt, and those of control.

llama_cpp's own detokenize cuts tokens of more than 32 bytes.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Iterator
from typing import Any

from llmsvc.backend.llama_cpp_python import internals
from llmsvc.backend.llama_cpp_python.templates import Template
from llmsvc.backend.vocabulary import Tokenize, Vocabulary

_UNKNOWN, _CONTROL, _USER_DEFINED = 1 << 0, 1 << 3, 1 << 4  # enum llama_token_attr
_TAGS = ("[ARGS]", "[CALL_ID]")


class Tokens:
    """The tokens of one model; may be used from any thread.

    :param tokenize: `Llama.tokenize`
    :param template: whose call syntax is to be seen in answers
    """

    def __init__(self, llama: Any, tokenize: Tokenize, template: Template) -> None:
        self._llama_cpp = internals.module("llama_cpp")
        self._llama = llama
        self._vocab = llama._model.vocab
        self._templates = template.source.encode()
        self._shown: dict[int, bytes] = {}
        for tag in (*template.syntax.tags, *_TAGS) if template.syntax else ():
            found = tokenize(tag.encode(), False, True)
            if len(found) == 1:
                self._shown[found[0]] = tag.encode()

    def text(self, token: int) -> bytes:
        """Its bytes; none for control tokens, which are no text."""
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length = self._llama_cpp.llama_token_to_piece(self._vocab, token, buffer, size, 0, False)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def answer(self, token: int) -> bytes:
        """Its bytes in an answer, where call syntax is to be seen even if it is a control token."""
        return self._shown.get(token) or self.text(token)

    def is_end(self, token: int) -> bool:
        """Whether it ends an answer."""
        return bool(self._llama_cpp.llama_vocab_is_eog(self._vocab, token))

    @functools.cached_property
    def ends(self) -> list[int]:
        """All tokens that end an answer; takes some hundredths of a second."""
        return [token for token in range(self._llama.n_vocab()) if self.is_end(token)]

    def around(self) -> tuple[list[int], list[int]]:
        """What llama_cpp puts before and after the tokens of a raw prompt."""
        model = self._llama._model
        separator, begin = model.token_sep(), model.token_cls()
        begin = self._llama.token_bos() if begin == -1 else begin
        first = [begin] if model.add_bos_token() and begin != -1 else []
        if separator != -1:
            return first, [separator]
        return first, [self._llama.token_eos()] if model.add_eos_token() else []

    def fill(self) -> tuple[int, int, int] | None:
        """The tokens before a prefix, a suffix and the middle to be filled in; None if it has none."""
        names = ("llama_vocab_fim_pre", "llama_vocab_fim_suf", "llama_vocab_fim_mid")
        prefix, suffix, middle = (int(getattr(self._llama_cpp, name)(self._vocab)) for name in names)
        return (prefix, suffix, middle) if min(prefix, suffix, middle) >= 0 else None

    def vocabulary(self) -> Vocabulary:
        """All tokens, looked at for safety; takes some tenths of a second."""
        text, attributes = self._llama_cpp.llama_vocab_get_text, self._llama_cpp.llama_vocab_get_attr

        def tokens() -> Iterator[tuple[bytes, bool]]:
            for token in range(self._llama.n_vocab()):
                spelling, kind = text(self._vocab, token), attributes(self._vocab, token)
                control = bool(kind & (_CONTROL | _UNKNOWN))
                # some GGUFs do not call the marks between turns control tokens
                yield spelling, control or bool(kind & _USER_DEFINED and spelling in self._templates)

        return Vocabulary(tokens())
