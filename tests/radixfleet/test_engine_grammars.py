"""Answers of the offline engine that are held to grammars."""

from __future__ import annotations

import json
import os
import re

import pytest

from radixfleet import Engine

from ..worker.api.worker_process import children_of
from ..worker.checkpoints import make_checkpoint
from ..worker.tokenization.tiny_tokenizer import write_tiny_tokenizer


def test_one_grammar_each_and_nothing_is_left_behind(tmp_path):
    folder = write_tiny_tokenizer(make_checkpoint(tmp_path / "model", "qwen3", vocab_size=270))
    before = set(children_of(os.getpid()))
    with Engine(
        model_path=str(folder), device="cpu", num_threads=1, max_total_tokens=512
    ) as engine:
        sampling = [
            {"regex": "[a-c]{2,4}"},
            {"json_schema": '{"type": "array", "items": {"enum": [1, 2]}, "maxItems": 4}'},
            {"ebnf": 'root ::= "x" | "(" root ")"'},
        ]
        first, second, third = engine.generate(["the", "the", "the"], sampling)
        assert re.fullmatch("[a-c]{2,4}", first["text"])
        assert set(json.loads(second["text"])) <= {1, 2}
        assert re.fullmatch(r"\(*x\)*", third["text"])
        answers = engine.generate("in", {"regex": "[a-z]{3}", "n": 4})
        assert all(re.fullmatch("[a-z]{3}", answer["text"]) for answer in answers)
        with pytest.raises(ValueError, match="no regular expression"):
            engine.generate("the", {"regex": "(a"})
        with pytest.raises(ValueError, match="one of json_schema and regex"):
            engine.generate("the", {"regex": "a", "json_schema": "{}"})
        assert len(set(children_of(os.getpid())) - before) == 1
    assert set(children_of(os.getpid())) == before
