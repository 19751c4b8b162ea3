"""Which JSON schemas are let through to llama.cpp's converter."""

import re
import time

import pytest

from llmsvc.backend import schemas
from llmsvc.backend.problem import ApiError


def safe(schema):
    return schemas.safe(schema, "here")


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object", "properties": {"a": {"type": "string", "maxLength": 512}}, "required": ["a"]},
        {"type": "array", "items": {"enum": ["x", 1, None, True]}, "minItems": 1, "maxItems": 3},
        {"anyOf": [{"type": "integer"}, {"type": "null"}]},
        {"type": "string", "format": "date-time"},
        {"type": "object", "additionalProperties": {"type": "number"}},
    ],
)
def test_what_llama_cpp_does_right_passes_unchanged(schema):
    assert safe(schema) == schema


def test_definitions_get_names_that_are_legal_in_a_grammar_and_nobody_elses():
    node = {"type": "object", "properties": {"next": {"$ref": "#/$defs/My_Node.1"}}}
    clean = safe({"$ref": "#/$defs/My_Node.1", "$defs": {"My_Node.1": node, "string": {"type": "null"}}})
    name = clean["$ref"].removeprefix("#/$defs/")
    assert re.fullmatch("part-[0-9a-f]{16}", name)
    assert clean["$defs"][name]["properties"]["next"] == {"$ref": f"#/$defs/{name}"}
    assert "string" not in clean["$defs"]


def test_a_format_of_any_kind_is_a_note():
    assert safe({"type": "string", "format": ["x"]}) == {"type": "string"}


def test_notes_are_dropped_and_an_empty_schema_means_an_object():
    assert safe({"title": "T", "description": "d", "default": 1, "$schema": "x"}) == {"type": "object"}


def test_types_in_a_list_keep_what_else_is_said():
    nullable = {"type": ["object", "null"], "properties": {"a": {"type": "string"}}}
    properties = {"properties": {"a": {"type": "string"}}}
    assert safe(nullable) == {
        "anyOf": [{"type": "object", **properties}, {"type": "null", **properties}]
    }  # fmt: skip
    assert safe({"type": ["string", "null"], "enum": ["a", None]}) == {"enum": ["a", None]}


def test_the_one_part_of_an_allof_is_taken_in():
    assert safe({"allOf": [{"type": "string"}], "description": "d"}) == {"type": "string"}


WORD = {"type": "string"}


def shape(kind):
    return {"type": "object", "properties": {"kind": {"const": kind}}, "required": ["kind"]}


@pytest.mark.parametrize(
    "choices",
    [
        [{"type": "string"}, {"type": "null"}],
        [{"const": 1}, {"enum": [2, 3]}],
        [shape("a"), shape("b")],
    ],
)
def test_one_of_is_any_of_where_no_value_fits_two(choices):
    assert safe({"oneOf": choices}) == {"oneOf": choices}


def test_one_of_is_followed_through_references():
    defined = {"$defs": {"A": shape("a"), "B": shape("b")}}
    assert safe({"oneOf": [{"$ref": "#/$defs/A"}, {"$ref": "#/$defs/B"}], **defined})


@pytest.mark.parametrize(
    ("schema", "clean"),
    [
        ({"type": "array", "minItems": 2}, {"type": "array", "minItems": 2, "items": {"type": "value"}}),
        ({"properties": {"a": {}}}, {"properties": {"a": {"type": "value"}}}),
        (
            {"type": "object", "required": ["a"]},
            {"type": "object", "required": ["a"], "properties": {"a": {"type": "value"}}},
        ),
        (
            {"properties": {"a": WORD}, "required": ["b"], "additionalProperties": {"type": "null"}},
            {
                "properties": {"a": WORD, "b": {"type": "null"}},
                "required": ["b"],
                "additionalProperties": False,
            },
        ),
        (
            {"properties": {"a": WORD}, "additionalProperties": True},
            {"properties": {"a": WORD}, "additionalProperties": False},
        ),
    ],
)
def test_what_the_converter_would_leave_open_is_said(schema, clean):
    assert safe(schema) == clean


def nest(depth):
    schema = {"type": "string"}
    for _ in range(depth):
        schema = {"type": "array", "items": schema}
    return schema


@pytest.mark.parametrize(
    "schema",
    [
        None,
        [],
        {"type": "text"},
        {"type": "string", "format": {}, "pattern": "a"},
        {"type": []},
        {"type": "string", "pattern": "a"},
        {"not": {}},
        {"allOf": [{}, {}]},
        {"enum": []},
        {"enum": ["a\\b"]},
        {"enum": ["\U0001f600"]},
        {"enum": [["a"]]},
        {"anyOf": []},
        {"anyOf": [WORD], "properties": {"a": WORD}},
        {"type": "string", "anyOf": [WORD]},
        {"enum": ["a"], "minLength": 5},
        {"enum": ["a", 1], "type": "string"},
        {"const": True, "type": "integer"},
        {"$ref": "#/$defs/a", "type": "object", "$defs": {"a": WORD}},
        {"oneOf": [WORD, {"type": "string", "maxLength": 3}]},
        {"oneOf": [{"type": "integer"}, {"type": "number"}]},
        {"type": "string", "format": "date", "maxLength": 5},
        {"minLength": 2, "allOf": [{"type": "string", "minLength": 1}]},
        {"type": "object", "required": ["a"], "additionalProperties": False},
        {"type": "object", "required": ['a"']},
        {"type": "string", "minLength": 5, "maxLength": 4},
        {"type": "string", "maxLength": 513},
        {"type": "string", "maxLength": True},
        {"type": "string", "maxLength": 1.0},
        {"properties": {"$ref": {"type": "string"}}},
        {"properties": {'a"': {"type": "string"}}},
        {"$ref": "https://x/y"},
        {"$ref": "#/$defs/absent"},
        {"properties": {"a": {"$defs": {"b": {}}}}},
        nest(17),
        {"properties": {f"p{n}": {"type": "string"} for n in range(400)}},
        {"properties": {f"p{n}": {"type": "string", "maxLength": 512} for n in range(9)}},
    ],
    ids=lambda schema: str(schema)[:50],
)
def test_the_rest_is_refused(schema):
    with pytest.raises(ApiError) as caught:
        safe(schema)
    assert (caught.value.status, caught.value.param, caught.value.code) == (400, "here", "unsupported_schema")


def test_references_that_multiply_alternatives_are_refused():
    def part(below: str) -> dict:
        arrays = [
            {"type": "array", "items": {"$ref": below}, "minItems": 1, "maxItems": most}
            for most in range(2, 8)
        ]
        return {"anyOf": arrays}

    parts = {f"A{level}": part(f"#/$defs/A{level + 1}") for level in range(8)} | {"A8": {"type": "string"}}
    with pytest.raises(ApiError) as caught:
        schemas.safe({"$ref": "#/$defs/A0", "$defs": parts}, "schema")
    assert caught.value.code == "unsupported_schema"
    assert "ways" in str(caught.value)
    few = {"$defs": {"A": {"anyOf": [{"type": "string"}, {"type": "null"}]}}, "type": "object"}
    few["properties"] = {name: {"$ref": "#/$defs/A"} for name in "abcdefgh"}
    assert schemas.safe(few, "schema")


def chain(length):
    parts = {f"a{at}": {"anyOf": [{"$ref": f"#/$defs/a{at + 1}"}]} for at in range(length)}
    return {"$ref": "#/$defs/a0", "$defs": {**parts, f"a{length}": {"type": "string"}}}


def test_references_that_are_chained_deeply_are_refused():
    assert safe(chain(20))
    with pytest.raises(ApiError) as refused:
        safe(chain(198))
    assert refused.value.code == "unsupported_schema"


@pytest.mark.parametrize(
    "schema",
    [
        {"oneOf": [{"const": at} for at in range(100_000)]},
        {"oneOf": [{"enum": list(range(at * 500, at * 500 + 500))} for at in range(100)]},
        {
            "oneOf": [
                {"type": "string"},
                *({"type": "integer", "enum": list(range(at * 500, at * 500 + 500))} for at in range(100)),
            ]
        },
        {"oneOf": [{"$ref": "#/$defs/a"}, {"const": 1}], "$defs": {"a": {"enum": [[1]]}}},
        {"oneOf": [{"$ref": "#/$defs/a"}] * 300, "$defs": {"a": {"enum": list(range(100_000))}}},
        {"enum": [10**4000]},
    ],
)
def test_lists_of_values_are_refused_soon_where_they_are_long(schema):
    begun = time.process_time()
    with pytest.raises(ApiError):
        safe(schema)
    assert time.process_time() - begun < 1


def test_one_of_many_words_is_any_of():
    choices = [{"const": at} for at in range(200)]
    assert safe({"oneOf": choices}) == {"oneOf": choices}
    choices = [{"type": "string", "enum": ["a", "b"]}, {"type": "integer"}, {"type": "string", "const": "c"}]
    assert len(safe({"oneOf": choices})["oneOf"]) == 3


def test_words_count_each_time_they_are_referred_to():
    words = {"enum": [f"word {at}" for at in range(300)]}
    array = {"type": "array", "items": {"$ref": "#/$defs/a"}}
    few = {"type": "object", "properties": dict.fromkeys("ab", array), "$defs": {"a": words}}
    assert safe(few)
    with pytest.raises(ApiError, match="ways"):
        safe({**few, "properties": dict.fromkeys("abcd", array)})
