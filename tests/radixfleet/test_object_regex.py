"""Instances of pydantic models match their model's regular expression, and what matches is one."""

from __future__ import annotations

import datetime
import enum
import json
import random
import re
import uuid
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from radixfleet import build_regex_from_object
from worker.grammar.registry import grammar_backend
from worker.messages import GrammarSpec

from ..worker.grammar.walk import BYTES, random_text


class Weapon(enum.StrEnum):
    sword = "sword"
    bow = "böw"


class Level(enum.IntEnum):
    low = 1
    high = 20


class Place(BaseModel):
    name: Annotated[str, Field(pattern=r"^[A-Z][a-z]{0,7}$")]
    height: Annotated[float, Field(ge=-10, lt=9000.5)]
    since: datetime.date


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: Annotated[int, Field(ge=1, le=9)]


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[Literal["sit", "fetch", 3]]


class Wizard(BaseModel):
    name: Annotated[str, Field(min_length=1, max_length=5)]
    motto: str
    age: int
    weapon: Weapon
    level: Level | None = None
    is_alive: bool
    power: float
    home: Place
    visited: Annotated[list[Place], Field(min_length=1, max_length=3)]
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]
    number_or_name: int | str
    pair: tuple[bool, Weapon]
    scores: dict[str, int]
    nothing: None = None
    id: uuid.UUID
    any_cat: Cat | None


_numbers = st.floats(allow_nan=False, allow_infinity=False)
_places = st.builds(
    Place,
    name=st.from_regex(r"[A-Z][a-z]{0,7}", fullmatch=True),
    height=st.integers(-40, 36001).map(lambda quarters: quarters / 4),
    since=st.dates(datetime.date(1000, 1, 1)),
)
_cats = st.builds(Cat, kind=st.just("cat"), lives=st.integers(1, 9))
_dogs = st.builds(
    Dog, kind=st.just("dog"), tricks=st.lists(st.sampled_from(["sit", "fetch", 3]), max_size=3)
)
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=9)
_wizards = st.builds(
    Wizard,
    name=st.text("aé 0", min_size=1, max_size=5),
    motto=_texts,
    age=st.integers(),
    weapon=st.sampled_from(Weapon),
    level=st.none() | st.sampled_from(Level),
    is_alive=st.booleans(),
    power=_numbers,
    home=_places,
    visited=st.lists(_places, min_size=1, max_size=3),
    pet=_cats | _dogs,
    number_or_name=st.integers() | _texts,
    pair=st.tuples(st.booleans(), st.sampled_from(Weapon)),
    scores=st.dictionaries(_texts, st.integers(), max_size=3),
    id=st.uuids(),
    any_cat=st.none() | _cats,
)

WIZARD = build_regex_from_object(Wizard)


@settings(deadline=None, derandomize=True, max_examples=50)
@given(_wizards)
def test_every_instance_matches(wizard: Wizard) -> None:
    text = json.dumps(wizard.model_dump(mode="json"), ensure_ascii=False)
    assert re.fullmatch(WIZARD, text)


@pytest.mark.parametrize(
    "change",
    [
        {"weapon": "axe"},
        {"name": ""},
        {"name": "Hermione"},
        {"level": 2},
        {"visited": []},
        {"home": {"name": "rome", "height": 1.0, "since": "2020-01-01"}},
        {"home": {"name": "Rome", "height": 9000.5, "since": "2020-01-01"}},
        {"pet": {"kind": "cat", "lives": 10}},
        {"pet": {"kind": "cow", "lives": 1}},
        {"pair": [True]},
        {"age": 1.5},
        {"other": 1},
    ],
)
def test_what_is_no_instance_does_not_match(change: dict[str, Any]) -> None:
    place = {"name": "Rome", "height": 20.5, "since": "2020-01-01"}
    wizard = {
        "name": "Ann",
        "motto": 'say "é"',
        "age": 30,
        "weapon": "böw",
        "level": 20,
        "is_alive": True,
        "power": 1e-7,
        "home": place,
        "visited": [place],
        "pet": {"kind": "dog", "tricks": [3]},
        "number_or_name": "x",
        "pair": [True, "sword"],
        "scores": {"a": 1},
        "nothing": None,
        "id": str(uuid.UUID(int=5)),
        "any_cat": None,
    }
    assert re.fullmatch(WIZARD, json.dumps(wizard, ensure_ascii=False))
    assert not re.fullmatch(WIZARD, json.dumps(wizard | change, ensure_ascii=False))


@pytest.mark.parametrize("model", [Cat, Dog, Place])
@pytest.mark.parametrize("backend", ["xgrammar", "llguidance", "outlines"])
def test_what_is_written_under_it_is_an_instance(backend: str, model: type[BaseModel]) -> None:
    library = grammar_backend(backend, BYTES)
    spec = GrammarSpec("regex", build_regex_from_object(model))
    grammar = library.load(library.compile(spec))
    rng = random.Random(1)
    texts = [text for _ in range(20) if (text := random_text(grammar, rng)) is not None]
    assert len(texts) > 10
    for text in texts:
        model.model_validate_json(text, strict=False)


def test_a_schema_may_be_given_instead() -> None:
    schema = Cat.model_json_schema()
    regex = build_regex_from_object(Cat)
    assert build_regex_from_object(schema) == build_regex_from_object(json.dumps(schema)) == regex


class Node(BaseModel):
    next: Node | None


class Numbers(BaseModel):
    numbers: set[int]


@pytest.mark.parametrize(
    ("model", "reason"),
    [(Node, "leads back to itself"), (Numbers, "uniqueItems"), ("{", "not JSON")],
)
def test_what_cannot_be_written_is_refused_by_name(model: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        build_regex_from_object(model)
