"""The benchmark of answers held to a schema measures every backend, on a tiny model."""

from __future__ import annotations

import itertools
import json

import pytest

from benchmarks.engine import options, structured
from worker.grammar.registry import BACKENDS

from ...worker.tokenization.tiny_tokenizer import write_tiny_tokenizer


def test_a_row_for_every_backend_with_and_without_jumps(tmp_path):
    output = tmp_path / "structured.json"
    arguments = "--model tiny --device cpu --max-total-tokens 4000 --num-threads 1 --repeats 2"
    arguments += f" --tokenizer {write_tiny_tokenizer(tmp_path / 'tokenizer')}"
    structured.main(
        [*arguments.split(), "--requests", "3", "--answer", "16", "--output", str(output)]
    )
    rows = json.loads(output.read_text())["rows"]
    jumps = [(row["backend"], row["jump_forward"]) for row in rows]
    assert jumps == list(itertools.product(BACKENDS, (False, True)))
    for row in rows:
        (free, schema), (other_free, other_schema) = row["turns"]
        assert row["free"] == (free + other_free) / 2 > 0
        assert row["ratio"] == pytest.approx((schema / free + other_schema / other_free) / 2)


def test_models_with_weights_may_be_named_where_a_benchmark_wants_them():
    both = options.parser(None, own_weights="smollm2-135m")
    assert both.parse_args([]).model == "smollm2-135m"
    assert both.parse_args(["--model", "tiny"]).model.endswith("configs/tiny")
    with pytest.raises(SystemExit):
        options.parser(None).parse_args(["--model", "smollm2-135m"])
