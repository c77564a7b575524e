"""Answers at random, as the grammars for calls allow them: what is called is valid."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest

from worker.api.errors import ApiError
from worker.api.openai.call_form import CallForm
from worker.api.openai.types import ChatBody
from worker.config import ServerArgs
from worker.grammar.base import GrammarBackend, Vocabulary
from worker.grammar.constraint import Constraint
from worker.grammar.registry import grammar_backend
from worker.parsers.deltas import Answer, CallDelta, Delta, parse
from worker.parsers.registry import TOOL_CALL_PARSERS

from ..grammar.walk import STOP, allowed

# Of formats, some of which have them as special tokens; then a word of free text.
_SPECIAL = sorted({token for load in TOOL_CALL_PARSERS.values() for token in load().special_tokens})
_BYTES = [b"", *(bytes([i]) for i in range(256))]
VOCABULARY = Vocabulary(
    [*_BYTES, *([b""] * len(_SPECIAL)), b"hm "],
    special={len(_BYTES) + i: token.encode() for i, token in enumerate(_SPECIAL)},
)
TAGGED = ["qwen25", "llama3", "mistral", "deepseekv3", "deepseekv31"]
LISTED = ["pythonic", "kimi_k2", "glm45", "qwen3_coder", None]

SEARCH = {
    "type": "object",
    "properties": {
        "text": {"type": "string", "pattern": '^[a"é]{0,3}$'},
        "filter": {"$ref": "#one"},
        "$ref": {"enum": [{"$ref": "#/$defs/filter"}]},
    },
    "required": ["text"],
    "additionalProperties": False,
    "$defs": {
        "filter": {
            "$anchor": "one",
            "type": "object",
            "properties": {"not": {"anyOf": [{"$ref": "#/$defs/filter"}, {"type": "null"}]}},
            "required": ["not"],
            "additionalProperties": False,
        }
    },
}
COUNT = {
    "properties": {"n": {"$ref": "#one"}},
    "required": ["n"],
    "additionalProperties": False,
    "$defs": {"n": {"$anchor": "one", "enum": [1, 2]}},
}
SCHEMAS: dict[str, dict[str, Any]] = {
    "search": SEARCH,
    "count": COUNT,
    "now": {"type": "object", "maxProperties": 0},
}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "search", "parameters": SEARCH}},
    {"type": "function", "function": {"name": "count", "parameters": COUNT, "strict": True}},
    {"type": "function", "function": {"name": "now"}},
]
FORCED = {"type": "function", "function": {"name": "count"}}


@pytest.fixture(scope="module", params=["xgrammar", "llguidance"])
def backend(request) -> GrammarBackend:
    return grammar_backend(request.param, VOCABULARY)


def form_of(parser: str | None, **fields: Any) -> CallForm:
    body = ChatBody(messages=[{"role": "user", "content": ""}], **{"tools": TOOLS, **fields})
    form = CallForm.of(body, ServerArgs("model", tool_call_parser=parser))
    assert form is not None
    return form


def written(backend: GrammarBackend, form: CallForm, count: int) -> list[list[str]]:
    """Pieces of whole answers; a model that would rather not call."""
    assert form.grammar is not None
    grammar = backend.load(backend.compile(form.grammar))
    rng = random.Random(7)
    liked = {len(VOCABULARY.tokens) - 1, *(1 + byte for byte in b'"}]')}
    triggers = [[*trigger.encode()] for trigger in form.parser.triggers]
    texts = []
    while len(texts) < count:
        constraint = Constraint(grammar, VOCABULARY, [STOP])
        wanted: list[int] = []
        pieces: list[bytes] = []
        while constraint.finish is None and len(pieces) < 2000:
            may = set(allowed(constraint, len(VOCABULARY.tokens)))
            is_free = len(may) > 150
            if is_free and not wanted and rng.random() < 0.2:
                wanted = [1 + byte for byte in rng.choice(triggers)]
            good = sorted(may & liked)
            if wanted and wanted[0] in may:
                token = wanted.pop(0)
            elif STOP in may and rng.random() < 0.3:
                break
            else:
                token = rng.choice(good if good and rng.random() < 0.6 else sorted(may - {STOP}))
            constraint.accept(len(pieces), token)
            pieces.append(VOCABULARY.special.get(token, VOCABULARY.tokens[token]))
        assert constraint.finish is None or constraint.finish.kind == "stop", constraint.finish
        text = b"".join(pieces)
        if len(pieces) < 2000 and text == text.decode(errors="replace").encode():
            texts.append(_characters(pieces))
    return texts


def _characters(pieces: list[bytes]) -> list[str]:
    """The same with no character divided."""
    whole: list[str] = []
    held = b""
    for piece in pieces:
        held += piece
        try:
            whole.append(held.decode())
        except UnicodeDecodeError:
            continue
        held = b""
    return whole


def read(form: CallForm, pieces: list[str]) -> Answer:
    """As a whole, and the same as a stream."""
    answer = parse(form.new_parser(), "".join(pieces))
    parser = form.new_parser()
    deltas: list[Delta] = []
    for piece in pieces:
        deltas += parser.push(piece)
    streamed = Answer.of([*deltas, *parser.end()])
    assert streamed.text == answer.text
    calls = [(call.name, call.arguments) for call in answer.calls]
    assert [(call.name, call.arguments) for call in streamed.calls] == calls
    first = next((delta for delta in deltas if isinstance(delta, CallDelta)), None)
    assert first is None or (first.name and first.id)
    return answer


def check(answer: Answer, names: set[str] | None = None) -> None:
    for call in answer.calls:
        assert names is None or call.name in names
        jsonschema.validate(json.loads(call.arguments), SCHEMAS[call.name])


@pytest.mark.parametrize("parser", [*TAGGED, *LISTED])
def test_an_answer_that_must_call_is_calls_and_nothing_else(backend, parser):
    form = form_of(parser, tool_choice="required")
    assert (form.parser.triggers != ()) == (parser in TAGGED)
    counts = set()
    for pieces in written(backend, form, 25):
        answer = read(form, pieces)
        assert answer.text == ""
        counts.add(len(answer.calls))
        check(answer)
    assert 0 not in counts
    assert max(counts) > 1


@pytest.mark.parametrize("parser", [*TAGGED, *LISTED])
@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"tool_choice": FORCED}, {"count"}),
        ({"tool_choice": "required", "parallel_tool_calls": False}, {"count", "search", "now"}),
    ],
)
def test_one_call_where_one_is_wanted(backend, parser, fields, names):
    form = form_of(parser, **fields)
    for pieces in written(backend, form, 10):
        answer = read(form, pieces)
        assert (answer.text, len(answer.calls)) == ("", 1)
        check(answer, names)
        no_limit = parse(form.parser(form.tools), "".join(pieces))
        assert len(no_limit.calls) == 1  # it was not asked for more


@pytest.mark.parametrize("parser", TAGGED)
def test_strict_tools_are_called_among_text_as_their_schemas_say(backend, parser):
    form = form_of(parser)
    called, said = set(), 0
    for pieces in written(backend, form, 40):
        answer = read(form, pieces)
        said += bool(answer.text)
        for call in answer.calls:
            called.add(call.name)
            arguments = json.loads(call.arguments)
            if call.name == "count":
                jsonschema.validate(arguments, COUNT)
            assert isinstance(arguments, dict)
    assert "count" in called
    assert said


PLACE = {
    "type": "object",
    "properties": {
        "name": {"enum": ["search", "Oslo", "[TOOL_CALLS]"]},
        "parameters": {"type": "object"},
    },
    "required": ["name"],
    "additionalProperties": False,
}
ANSWERS = {"type": "array", "items": PLACE, "minItems": 1, "maxItems": 2}
SHAPED = {"type": "json_schema", "json_schema": {"name": "answers", "schema": ANSWERS}}


@pytest.mark.parametrize("schema", [ANSWERS, {"$ref": "#/$defs/place", "$defs": {"place": PLACE}}])
@pytest.mark.parametrize("parser", [each for each in TAGGED if each != "llama3"])
@pytest.mark.parametrize("is_single", [False, True])
def test_an_answer_calls_or_keeps_to_the_schema_for_answers(backend, parser, is_single, schema):
    shaped = {"type": "json_schema", "json_schema": {"name": "answers", "schema": schema}}
    form = form_of(parser, response_format=shaped, parallel_tool_calls=not is_single)
    called, said = 0, 0
    for pieces in written(backend, form, 40):
        answer = read(form, pieces)
        if answer.calls:
            assert answer.text == ""
            assert not is_single or len(answer.calls) == 1
            called += 1
            for call in answer.calls:
                held_to = COUNT if call.name == "count" else {"type": "object"}
                jsonschema.validate(json.loads(call.arguments), held_to)
        else:
            jsonschema.validate(json.loads(answer.text), schema)
            assert answer.text == "".join(pieces)
            said += 1
    assert called
    assert said


def test_an_answer_that_must_call_leaves_the_schema_for_answers_alone():
    for parser in (*TAGGED, *LISTED):
        form = form_of(parser, response_format=SHAPED, tool_choice="required")
        assert form.grammar == form_of(parser, tool_choice="required").grammar


@pytest.mark.parametrize("parser", ["llama3", *(each for each in LISTED if each)])
def test_a_schema_for_answers_is_refused_where_no_grammar_could_tell_them_from_calls(parser):
    with pytest.raises(ApiError, match="keeps to response_format cannot call them") as raised:
        form_of(parser, response_format=SHAPED, tools=TOOLS[:1])
    assert f"--tool-call-parser {parser}" in str(raised.value)
    assert raised.value.param == "tools"


@pytest.mark.parametrize("parser", [each for each in LISTED if each])
def test_strict_tools_among_text_are_refused_where_no_grammar_can_hold_them(parser):
    with pytest.raises(ApiError, match="calls of 'count' cannot be held to its schema") as raised:
        form_of(parser)
    assert raised.value.param == "tools"


def test_tools_that_are_not_strict_are_called_as_the_model_likes():
    assert form_of("qwen25", tools=[TOOLS[0]]).grammar is None
