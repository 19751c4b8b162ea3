"""The grammars that hold an answer to a form: a JSON schema, any JSON, or calls of given functions."""

from __future__ import annotations

import json
import re
from typing import Any

from llmsvc.backend.calls import Only, Syntax
from llmsvc.backend.llama_cpp_python import internals
from llmsvc.backend.problem import ApiError, bad

# Within texts the converter's grammar allows line ends and halves of characters, which JSON does not
_PLAIN = (r'[^"\\] |', r'[^"\\\x7F\x00-\x1F] |')
_DIGIT = "[0-9a-fA-F]"
_ESCAPED = (
    f'"u" {_DIGIT} {_DIGIT} {_DIGIT} {_DIGIT}',
    f'"u" ([0-9a-cA-CefEF] {_DIGIT} | [dD] [0-7]) {_DIGIT} {_DIGIT}',
)


def of_schema(schema: dict[str, Any], param: str) -> str:
    """The grammar of a schema that schemas.safe() has passed.

    :param param: where it stands in the request, for the error
    :raises ApiError: 400, llama_cpp cannot convert it
    """
    try:
        text = internals.module("llama_cpp.llama_grammar").json_schema_to_gbnf(json.dumps(schema))
    except Exception:  # the converter asserts, looks up and recurses as it likes
        raise _refused(param) from None
    return str(text.replace(*_PLAIN).replace(*_ESCAPED))


def of_calls(syntax: Syntax, functions: dict[str, dict[str, Any]], *, several: bool) -> str:
    """The grammar of calls of some functions, as the syntax writes them.

    :param functions: the schema of the arguments of each
    :param several: whether there may be more than one call
    """
    if isinstance(syntax, Only):
        return of_schema(functions[syntax.name], "tools")
    choices = []
    definitions: dict[str, dict[str, Any]] = {}
    for name, schema in functions.items():
        tables = {table: schema[table] for table in ("$defs", "definitions") if table in schema}
        for table, parts in tables.items():
            definitions.setdefault(table, {}).update(parts)
        arguments = {key: value for key, value in schema.items() if key not in tables}
        properties = {"name": {"const": name}, syntax.arguments: arguments}
        choices.append({"type": "object", "properties": properties, "required": list(properties)})
    one = of_schema({**definitions, **(choices[0] if len(choices) == 1 else {"anyOf": choices})}, "tools")
    before, between, after = (json.dumps(text) for text in (syntax.before, syntax.between, syntax.after))
    more = f" ({between} one-call)*" if several and syntax.between else ""
    return re.sub(r"^root ::=", "one-call ::=", one, flags=re.M) + (
        f"\nroot ::= {before} one-call{more} {after}\n"
    )


def made(vocab: object, text: str, param: str) -> Any:
    """The LlamaGrammar of a text, once llama.cpp has shown that it can read it.

    :raises ApiError: 400, it cannot
    """
    llama_cpp = internals.module("llama_cpp")
    sampler = llama_cpp.llama_sampler_init_grammar(vocab, text.encode(), b"root")
    if not sampler:
        raise _refused(param)
    llama_cpp.llama_sampler_free(sampler)
    return llama_cpp.LlamaGrammar.from_string(text, verbose=False)


def _refused(param: str) -> ApiError:
    return bad("this JSON schema cannot be turned into a grammar", param, "unsupported_schema")
