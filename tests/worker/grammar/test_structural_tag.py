"""Free text with structures in it, by a reader of its own; special tokens stand for their texts."""

from __future__ import annotations

import json
import random
from typing import Any

import jsonschema
import pytest

from worker.grammar import compile_process
from worker.grammar.base import CompiledGrammar, GrammarBackend, GrammarError, Vocabulary
from worker.grammar.compile_process import compile_in_time
from worker.grammar.constraint import Constraint
from worker.grammar.jump_forward import JumpForward
from worker.grammar.registry import grammar_backend
from worker.messages import GrammarSpec

from .walk import STOP, allowed

_WORDS = [b"x<f=", b"</f>z", b"]\n", b'": ', b"a>{", b"\xc3\xa9", b"", b"", b"", b""]
_FIRST_WORD = 257
CALL, DONE, NOTE, UNUSED = range(_FIRST_WORD + 6, _FIRST_WORD + 10)
# Single bytes, longer tokens, and special ones; the last token has no text at all.
VOCABULARY = Vocabulary(
    [b"", *(bytes([i]) for i in range(256)), *_WORDS],
    special={CALL: b"[CALL]", DONE: b"[DONE]", NOTE: b"[NOTE]"},
)
ALL_BUT = {STOP, UNUSED}

NAMED: dict[str, Any] = {
    "type": "object",
    "properties": {"n": {"type": "string", "pattern": "^x{2,9}$"}, "k": {"enum": ["é", 1]}},
    "required": ["n"],
    "additionalProperties": False,
}
NODE: dict[str, Any] = {
    "type": "array",
    "items": {"$ref": "#/$defs/bit"},
    "maxItems": 3,
    "$defs": {"bit": {"enum": [0, 1]}},
}
STRUCTURES = [
    {"begin": "<f=a>", "schema": NAMED, "end": "</f>"},
    {"begin": "<f=b>", "schema": NODE, "end": '\n"é\\\u0007</f>'},
    {"begin": "[CALL]go ", "schema": {"type": "boolean"}, "end": "[DONE]"},
    {"begin": "[CALL]", "schema": {"type": "null"}, "end": ""},
]
TRIGGERS = ["<f=", "[CALL]"]


def tag(structures: list[Any] = STRUCTURES, triggers: list[Any] = TRIGGERS, **more: Any) -> Any:
    text = json.dumps({"structures": structures, "triggers": triggers, **more})
    return GrammarSpec("structural_tag", text)


@pytest.fixture(params=["xgrammar", "llguidance"], scope="module")
def backend(request) -> GrammarBackend:
    return grammar_backend(request.param, VOCABULARY)


def compiled(backend: GrammarBackend, spec: GrammarSpec) -> CompiledGrammar:
    return backend.load(backend.compile(spec))


def text_of(token: int) -> bytes:
    return VOCABULARY.special.get(token, VOCABULARY.tokens[token])


def text_at_random(grammar: CompiledGrammar, rng: random.Random, *, likes: float) -> str:
    """A whole text, of 60 tokens if it may go on so long; `likes`: how often one is taken that
    structures have.
    """
    constraint = Constraint(grammar, VOCABULARY, [STOP])
    text, place = b"", 0
    while constraint.finish is None and (place < 60 or STOP not in allowed_in(constraint)):
        choices = allowed_in(constraint) - {STOP}
        liked = sorted(choices & {CALL, _FIRST_WORD, *(1 + byte for byte in b'"x</f')})
        token = rng.choice(liked if liked and rng.random() < likes else sorted(choices))
        constraint.accept(place, token)
        text += text_of(token)
        place += 1
    assert constraint.finish is None or constraint.finish.kind == "stop"
    return text.decode(errors="replace")


def read(text: str, structures: list[Any], triggers: list[str]) -> list[tuple[int, int]]:
    """Where the structures of `text` are; fails if something else follows a trigger."""
    places, after = [], 0
    while True:
        starts = [at for at in (text.find(trigger, after) for trigger in triggers) if at >= 0]
        if not starts:
            return places
        start = min(starts)
        ends = [_end(text, start, each) for each in structures]
        (after,) = (end for end in ends if end is not None)
        places.append((start, after))


def _end(text: str, start: int, structure: dict[str, Any]) -> int | None:
    if not text.startswith(structure["begin"], start):
        return None
    inside = start + len(structure["begin"])
    try:
        value, after = json.JSONDecoder().raw_decode(text, inside)
    except ValueError:
        return None
    jsonschema.validate(value, structure["schema"])
    assert text[inside:after] == json.dumps(value, ensure_ascii=False)
    return after + len(structure["end"]) if text.startswith(structure["end"], after) else None


FORMS = [
    {},
    {"stop_after_first": True},
    {"separators": ["; ", "[NOTE]"]},
    {"separators": []},
    {"separators": ["; "], "stop_after_first": True},
]


@pytest.mark.parametrize("form", FORMS)
def test_texts_at_random_are_read_by_another_reader(backend, form):
    grammar = compiled(backend, tag(**form))
    rng = random.Random(1)
    read_ones = 0
    for _ in range(60):
        shown = text_at_random(grammar, rng, likes=0.5)
        places = read(shown, STRUCTURES, TRIGGERS)
        read_ones += len(places)
        if "separators" in form:
            ends = [0, *(end for _, end in places)]
            starts = [*(start for start, _ in places), len(shown)]
            between = [shown[end:start] for end, start in zip(ends, starts, strict=True)]
            assert places
            assert between[0] == ""
            assert {*between} <= {"", *form["separators"]}
        if "stop_after_first" in form:
            assert len(places) <= 1
            assert all(end == len(shown) for _, end in places)
    assert read_ones >= 60 or "stop_after_first" in form
    assert read_ones > 0


@pytest.mark.parametrize("more", [{}, {"stop_after_first": True}])
def test_a_text_has_structures_or_keeps_to_another_schema(backend, more):
    grammar = compiled(backend, tag(separators=["; "], otherwise=json.dumps(NAMED), **more))
    rng = random.Random(2)
    with_structures = 0
    for _ in range(40):
        text = text_at_random(grammar, rng, likes=0.0)
        if places := read(text, STRUCTURES, TRIGGERS):
            assert places[0][0] == 0
            with_structures += 1
        else:
            jsonschema.validate(json.loads(text), NAMED)
    assert 0 < with_structures < 40
    assert after(grammar) == {byte("<"), CALL, byte("{")}
    assert not {byte("<"), CALL} & after(grammar, '{"n": "xx"')
    assert more or byte("{") not in after(grammar, CALL, "null")


def allowed_in(constraint: Constraint) -> set[int]:
    return set(allowed(constraint, len(VOCABULARY.tokens)))


def after(grammar: CompiledGrammar, *parts: str | int) -> set[int]:
    """What may follow texts, byte by byte, and tokens."""
    constraint = Constraint(grammar, VOCABULARY, [STOP])
    tokens = [
        token
        for part in parts
        for token in ([part] if isinstance(part, int) else [1 + byte for byte in part.encode()])
    ]
    for place, token in enumerate(tokens):
        assert token in allowed_in(constraint), (parts, place)
        constraint.accept(place, token)
    return allowed_in(constraint)


def byte(text: str) -> int:
    return 1 + ord(text)


@pytest.mark.parametrize("parts", [(), ("hé <f",), ('<f=b>[]\n"é\\\a</f>',), (NOTE, "x", DONE)])
def test_free_text_may_be_anything_and_end_anywhere(backend, parts):
    may_come = after(compiled(backend, tag()), *parts)
    assert {STOP, byte("a"), byte("\n"), _FIRST_WORD, CALL, DONE, NOTE} <= may_come
    assert UNUSED not in may_come


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        (("x<f=",), {byte("a"), byte("b"), _FIRST_WORD + 4}),
        ((_FIRST_WORD, "a>"), {byte("{")}),
        ((_FIRST_WORD, _FIRST_WORD + 4), {byte('"')}),
        (("[CALL]",), {byte("g"), byte("n")}),
        ((CALL,), {byte("g"), byte("n")}),
        ((CALL, "go true"), {DONE}),
        (("[CALL]go true",), {DONE}),
        ((NOTE, "no ", CALL, "go "), {byte("t"), byte("f")}),
        (('<f=a>{"n": "x',), {byte("x")}),
        (('<f=a>{"n": "xx"}',), {byte("<"), _FIRST_WORD + 1}),
    ],
)
def test_in_a_structure_there_is_nothing_else(backend, parts, expected):
    assert after(compiled(backend, tag()), *parts) == expected


def jumped(grammar: CompiledGrammar, *tokens: int) -> str:
    """What is appended without the model behind `tokens`."""
    jump = JumpForward(VOCABULARY, lambda text: [1 + each for each in text.encode()])
    matcher = grammar.matcher()
    for token in tokens:
        assert matcher.accept(token)
    return b"".join(map(text_of, jump.advance(matcher, tokens, most=99))).decode()


def test_forced_text_ends_where_a_special_token_may_come(backend):
    grammar = compiled(backend, tag(separators=[]))
    assert jumped(grammar) == ""  # it may be [CALL]
    behind = (CALL, *map(byte, "go t"))
    assert jumped(grammar, *behind) == "rue"
    assert jumped(grammar, *behind, *map(byte, "rue")) == ""
    assert jumped(grammar, *map(byte, "<f=b>[0]")) == STRUCTURES[1]["end"]
    without = compiled(backend, tag([STRUCTURES[0]], ["<f="], separators=[]))
    assert jumped(without) == '<f=a>{"n": "xx'


def test_where_a_structure_must_come_special_tokens_are_not_spelled(backend):
    begins = {byte("<"), CALL}
    grammar = compiled(backend, tag(separators=["; ", "[DONE]"]))
    assert after(grammar) == begins
    assert after(grammar, CALL, "null") == begins | {STOP, byte(";"), DONE}
    assert after(grammar, CALL, "null", DONE) == begins | {STOP}


def test_other_grammars_have_no_special_tokens(backend):
    for spec in (
        GrammarSpec("regex", r"[^a]*"),
        GrammarSpec("json_schema", '{"type": "string"}'),
        GrammarSpec("ebnf", r'root ::= [^a]* | "\xff" [^b]*'),
    ):
        constraint = Constraint(compiled(backend, spec), VOCABULARY, [STOP])
        assert not {CALL, DONE, NOTE} & allowed_in(constraint)


def test_a_special_token_with_a_trigger_in_it_is_the_beginning_of_one(backend):
    spec = tag([{"begin": "[CALL]x", "schema": {}, "end": ""}], ["[C"])
    assert after(compiled(backend, spec), CALL) == {byte("x")}
    assert after(compiled(backend, spec), "[C") == {byte("A")}
    assert CALL not in after(compiled(backend, tag([STRUCTURES[0]], ["<f="])), NOTE, "<f=")
    only_note = tag([{"begin": "[NOTE]", "schema": {}, "end": ""}], ["["])
    assert {NOTE} == after(compiled(backend, only_note)) & {CALL, DONE, NOTE}


@pytest.mark.parametrize(
    ("spec", "reason"),
    [
        (tag(triggers=["<f="]), 'structure "[CALL]go ": it begins with none of the triggers'),
        (tag(triggers=[*TRIGGERS, "<g"]), 'trigger "<g": no structure begins with it'),
        (
            tag(triggers=["<f=", "<f", "[CALL]"]),
            'triggers "<f=" and "<f": one is part of the other',
        ),
        (tag(triggers=["<f=", ""]), "a trigger is empty"),
        (tag([]), "structures is empty"),
        (tag(triggers=["<f=", "[CALL]go", "[CALL]"]), "one is part of the other"),
        (tag([STRUCTURES[2]], ["[CALL]go"]), 'trigger "[CALL]go": it must not go beyond "[CALL]"'),
        (
            tag([{"begin": "x", "schema": {"not": {}}, "end": ""}], ["x"]),
            'structure "x": not is not supported',
        ),
        (tag(form=1), "unknown field `form`"),
        (tag(otherwise="{}"), "otherwise is for texts without free text"),
        (
            tag(separators=[], otherwise='{"not": {}}'),
            "text without structures: not is not supported",
        ),
        (tag(separators=[], otherwise="{"), "text without structures: "),
        (tag([{"begin": "x", "end": ""}]), "missing required field `schema`"),
        (GrammarSpec("structural_tag", "{"), "it is no structural tag: "),
        (GrammarSpec("structural_tag", '{"a": "\ud800"}'), "surrogates"),
    ],
)
def test_what_is_wrong_is_said_by_name(backend, spec, reason):
    with pytest.raises(GrammarError) as raised:
        backend.compile(spec)
    assert reason in str(raised.value)


def test_a_structure_that_is_slow_to_follow_is_refused(backend, monkeypatch):
    """Behind free text, to which no text at random would come."""
    steps = []

    class Watched(Constraint):
        def accept(self, place: int, token: int) -> bool:
            steps.append(token)
            return super().accept(place, token)

    monkeypatch.setattr(compile_process, "Constraint", Watched)
    answer = compile_in_time(backend, VOCABULARY, tag())
    assert answer.error is None
    for begin in (map(byte, "<f=a>"), map(byte, "<f=b>"), [CALL, *map(byte, "go ")], [CALL]):
        begin = list(begin)
        assert any(steps[i : i + len(begin)] == begin for i in range(len(steps)))
    monkeypatch.setattr(compile_process, "SLOW_SECONDS", 0.0)
    answer = compile_in_time(backend, VOCABULARY, tag())
    assert "too long to say which tokens may come next" in (answer.error or "")
