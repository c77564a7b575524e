"""Ranges of numbers as regular expressions: they match what Python says is inside."""

from __future__ import annotations

import json
import random
import re
from decimal import Decimal

import pytest

from worker.grammar.number_regex import Bound, integer_regex, number_regex

BOUNDS = [None, *(Decimal(text) for text in ("-10.05", "-9", "-0.5", "0", "0.5", "0.507", "1"))]
BOUNDS += [Decimal(text) for text in ("1.5", "9.99", "10", "10.01", "123.4")]
NUMBERS = [f"{sign}{i / 1000:g}" for sign in ("", "-") for i in range(0, 12000, 7)]
NUMBERS += [f"{bound}{end}" for bound in BOUNDS[1:] for end in ("", "0", "1")]
NUMBERS += [f"{bound:.4f}" for bound in BOUNDS[1:] if bound is not None] + ["1000", "-1000.25"]
NUMBERS = [text for text in NUMBERS if re.fullmatch(r"-?(0|[1-9]\d*)(\.\d+)?", text)]


@pytest.mark.parametrize("low", BOUNDS)
@pytest.mark.parametrize("low_open", [False, True])
@pytest.mark.parametrize("high_open", [False, True])
def test_numbers(low: Decimal | None, low_open: bool, high_open: bool) -> None:
    for high in BOUNDS:
        regex = number_regex(
            None if low is None else Bound(low, low_open),
            None if high is None else Bound(high, high_open),
        )
        for text in NUMBERS:
            number = Decimal(text)
            inside = (
                (low is None or (number > low if low_open else number >= low))
                and (high is None or (number < high if high_open else number <= high))
                and not (number == 0 and text.startswith("-"))
            )
            matches = regex is not None and re.fullmatch(regex, text) is not None
            assert matches == inside, (low, high, text, regex)


def test_whole_numbers() -> None:
    rng = random.Random(0)
    bounds = [
        None,
        0,
        1,
        9,
        10,
        99,
        100,
        -1,
        -9,
        -10,
        *(rng.randrange(-1500, 1500) for _ in "12345"),
    ]
    for low in bounds:
        for high in bounds:
            regex = integer_regex(low, high)
            for number in range(-1600, 1600):
                inside = (low is None or low <= number) and (high is None or number <= high)
                matches = regex is not None and re.fullmatch(regex, str(number)) is not None
                assert matches == inside, (low, high, number, regex)


@pytest.mark.parametrize("text", ["007", "-0", "+1", "1.", ".5", "1e3", ""])
def test_what_is_no_number_of_json_does_not_match(text: str) -> None:
    assert re.fullmatch(number_regex(None, None) or "", text) is None
    assert re.fullmatch(integer_regex(None, None) or "", text) is None


def test_large_and_small_bounds() -> None:
    low, high = Decimal("1e-20"), Decimal("1e20")
    regex = number_regex(Bound(low), Bound(high))
    assert regex is not None
    for number in (low, high, Decimal(5)):
        assert re.fullmatch(regex, f"{number:f}")
        assert json.loads(f"{number:f}") == float(number)
    assert not re.fullmatch(regex, f"{low / 2:f}")
    assert not re.fullmatch(regex, f"{high + 1:f}")
