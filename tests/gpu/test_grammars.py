"""Answers held to grammars on a GPU, with graphs and overlap, beside requests that are free."""

from __future__ import annotations

import json
import re

import pytest

from radixfleet import Engine

from .agreement import NEAR_TIE_BFLOAT16, check_greedy
from .smollm2 import GREEDY

jsonschema = pytest.importorskip("jsonschema")
pytest.importorskip("xgrammar")

SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 20},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["x", "yy"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
}
REGEX = r"[a-f]{3,9}(the|in)?"
MODES = {
    "overlap": {},
    "in turn": {"disable_overlap_schedule": True},
    "eager": {"disable_cuda_graph": True},
    "no jumps": {"disable_jump_forward": True},
}


@pytest.mark.parametrize(
    "args",
    MODES.values(),
    ids=MODES,
)
def test_held_answers_obey_and_free_ones_stay_as_they_are(smollm2, prompts, reference, args):
    held = {"temperature": 1.0, "max_new_tokens": 200}
    sampling = [
        GREEDY,
        held | {"json_schema": json.dumps(SCHEMA)},
        held | {"regex": REGEX},
        held | {"json_schema": json.dumps(SCHEMA), "temperature": 0.0},
    ]
    asked = [prompt for prompt in prompts[:12] for _ in sampling]
    sizes = {"max_total_tokens": 16384, "cuda_graph_max_bs": 32}
    with Engine(model_path=str(smollm2), device="cuda", dtype="bfloat16", **sizes, **args) as made:
        answers = made.generate(input_ids=asked, sampling_params=sampling * len(prompts[:12]))
    free, first, second, greedy = (answers[i::4] for i in range(4))
    check_greedy(
        reference, prompts[:12], [answer["output_ids"] for answer in free], NEAR_TIE_BFLOAT16
    )
    for answer in first + greedy:
        assert answer["meta_info"]["finish_reason"]["type"] == "stop"
        jsonschema.validate(json.loads(answer["text"]), SCHEMA)
    for answer in second:
        assert re.fullmatch(REGEX, answer["text"]), answer["text"]


@pytest.mark.parametrize("args", MODES.values(), ids=MODES)
def test_long_forced_text_saves_steps(smollm2, tokenizer, args):
    pattern = "[a-c]0123456789{30}([d-f]9876543210{30}){2}"
    sampling = {"temperature": 1.0, "max_new_tokens": 200, "regex": pattern}
    prompts = [tokenizer.encode(text) for text in ("Numbers: ", "Some letters and numbers: ")]
    with Engine(
        model_path=str(smollm2), device="cuda", dtype="bfloat16", max_total_tokens=4096, **args
    ) as made:
        answers = [made.generate(input_ids=prompt, sampling_params=sampling) for prompt in prompts]
        counters = made.scheduler.counters
    for answer in answers:
        assert re.fullmatch(pattern, answer["text"]), answer["text"]
    if "disable_jump_forward" in args:
        assert counters.forced_tokens == 0
    else:
        assert counters.forced_tokens > 150
        assert counters.steps < counters.generated_tokens / 3
