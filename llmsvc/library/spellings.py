"""The vocabulary in a GGUF file: how each token is spelled, and of what kind it is."""

from __future__ import annotations

import os
from pathlib import Path

from llmsvc.errors import ModelError
from llmsvc.library.gguf import ARRAY, SCALARS, STRING
from llmsvc.library.window import BrokenError, Reader

UNKNOWN, CONTROL, USER_DEFINED = 2, 3, 4
"""Kinds of tokens: llama.h, enum llama_token_type."""
_TOKENS, _KINDS = "tokenizer.ggml.tokens", "tokenizer.ggml.token_type"
_INT32 = 5


def read(file: Path) -> list[tuple[bytes, int]]:
    """The spelling and the kind of each token; the kind is 0 where the file does not say.

    :raises ModelError: unreadable or broken; gguf.read_header() has checked more
    """
    spellings: list[bytes] = []
    kinds: list[int] = []
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NONBLOCK), "rb", buffering=0) as stream:
            reader = Reader(stream, os.fstat(stream.fileno()).st_size)
            reader.skip(16)
            for _ in range(reader.u64()):
                key, kind = reader.text(), reader.u32()
                if kind == STRING:
                    reader.text()
                elif kind == ARRAY:
                    item, count = reader.u32(), reader.u64()
                    if item == STRING and key == _TOKENS:
                        spellings = reader.strings(count)
                    elif item == STRING:
                        reader.skip_strings(count)
                    elif item == _INT32 and key == _KINDS:
                        kinds = [int(SCALARS[item].unpack(reader.take(4))[0]) for _ in range(count)]
                    else:
                        reader.skip(count * SCALARS[item].size)
                else:
                    reader.skip(SCALARS[kind].size)
    except (BrokenError, KeyError) as error:
        raise ModelError(f"has a broken vocabulary: {error}", file=file) from None
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", file=file) from None
    kinds += [0] * (len(spellings) - len(kinds))
    return list(zip(spellings, kinds, strict=False))
