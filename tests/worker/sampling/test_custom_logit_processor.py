"""Custom logit processors: how they travel, what they are given, and what they may do wrong."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import threading
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch

from radixfleet import CustomLogitProcessor
from worker.sampling.custom_logit_processor import ProcessorLoadError, load_processor
from worker.sampling.penalties import Penalties
from worker.sampling.processing import NO_TOKEN, RowProcessor
from worker.sampling.sampler import sample
from worker.sampling.table import SamplingRow

from .rows import make_table

VOCAB = 40


class OnlyToken(CustomLogitProcessor):
    """Leaves the token that the request names."""

    def __call__(self, logits, custom_param_list):
        assert logits.dtype == torch.float32
        assert logits.shape[0] == len(custom_param_list)
        for row, params in enumerate(custom_param_list):
            logits[row] = -torch.inf
            logits[row, params["token_id"]] = 0.0
        return logits


class Recording:
    """Notes what it is given, and changes nothing."""

    def __init__(self) -> None:
        self.calls: list[tuple[torch.Tensor, list]] = []

    def __call__(self, logits, custom_param_list):
        self.calls.append((logits.clone(), list(custom_param_list)))
        return logits


def draw(logits: torch.Tensor, parameters: list[dict]) -> tuple[list[int], dict[int, str], list]:
    """Tokens of the rows, why some have none, and what was noted as the newest tokens."""
    table = make_table(parameters, VOCAB)
    rows = np.arange(len(parameters))
    processing = table.processing(rows)
    next_tokens = torch.zeros(len(rows), dtype=torch.int64)
    places = torch.from_numpy(rows)
    tokens = sample(
        logits.clone(),
        places,
        torch.zeros_like(places),
        table,
        table.flags(rows),
        next_tokens,
        processing,
    )
    if processing is None:
        return tokens.tolist(), {}, next_tokens.tolist()
    marked = processing.mark(tokens).tolist()
    return marked, processing.failed(marked), next_tokens.tolist()


def some_logits(rows: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(rows, VOCAB, generator=torch.Generator().manual_seed(2)).to(dtype)


# ===== how they travel =====


def test_a_class_of_the_clients_program_travels_whole() -> None:
    text = OnlyToken.to_str()
    processor = CustomLogitProcessor.from_str(text)
    changed = processor(torch.zeros(1, VOCAB), [{"token_id": 7}])
    assert changed.argmax().item() == 7
    assert load_processor(text) is processor, "the same string is loaded once"


SGLANG_CLIENT = """
import dill, json
from sglang.srt.sampling.custom_logit_processor import CustomLogitProcessor

class Highest(CustomLogitProcessor):
    def __init__(self):
        self.token = 3
    def __call__(self, logits, custom_param_list):
        logits[:, self.token] = 1000.0
        return logits

print(json.dumps({"callable": dill.dumps(%s).hex()}))
"""


@pytest.mark.parametrize("sent", ["Highest", "Highest()"])
def test_what_was_pickled_with_sglangs_base_class_loads_without_sglang(
    tmp_path: Path, sent: str
) -> None:
    module = tmp_path / "sglang/srt/sampling/custom_logit_processor.py"
    module.parent.mkdir(parents=True)
    module.write_text("import abc\n\nclass CustomLogitProcessor(abc.ABC):\n    pass\n")
    text = subprocess.run(
        [sys.executable, "-c", SGLANG_CLIENT % sent],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    processor = load_processor(text)
    assert isinstance(processor, CustomLogitProcessor)
    assert draw(some_logits(2), [{}, {"processor": RowProcessor(processor, None)}])[0][1] == 3


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("nonsense", "must be what"),
        ("[]", "must be what"),
        ('{"callable": "xyz"}', "must be what"),
        ('{"callable": "00"}', "cannot be loaded"),
        ('{"callable": "80044b052e"}', "cannot be called"),  # the pickle of 5
    ],
)
def test_what_is_no_processor_says_so(text: str, reason: str) -> None:
    with pytest.raises(ProcessorLoadError, match=f"custom_logit_processor: .*{reason}"):
        load_processor(text)


# ===== what they are given =====


def test_each_is_called_once_with_its_rows_and_nobody_elses() -> None:
    first, second = Recording(), Recording()
    parameters = [
        {"processor": RowProcessor(first, {"a": 1})},
        {},
        {"processor": RowProcessor(second, None)},
        {"processor": RowProcessor(first, {"a": 2})},
    ]
    logits = some_logits(4, torch.bfloat16)
    draw(logits, parameters)
    ((given, params),) = first.calls
    assert params == [{"a": 1}, {"a": 2}]
    assert given.dtype == torch.float32
    assert torch.equal(given, logits[[0, 3]].float())
    ((given, params),) = second.calls
    assert params == [None]
    assert torch.equal(given, logits[[2]].float())


def test_they_come_after_penalties_and_before_temperature_and_filters() -> None:
    recording = Recording()
    nothing = np.empty(0, dtype=np.int32)
    penalties = Penalties(nothing, nothing, bias=((5, 3.0),))
    row = {"temperature": 0.5, "top_k": 1, "penalties": penalties}
    logits = some_logits(1)
    draw(logits, [{**row, "processor": RowProcessor(recording, None)}])
    expected = logits.clone()
    expected[0, 5] += 3.0
    assert torch.equal(recording.calls[0][0], expected)


@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.0}, {"top_p": 0.5, "min_p": 0.9}])
def test_the_token_is_what_they_leave_and_free_rows_keep_theirs(sampling: dict) -> None:
    logits = some_logits(3)
    free = draw(logits, [sampling] * 3)[0]
    processor = RowProcessor(OnlyToken(), {"token_id": 11})
    rows = [sampling, {**sampling, "processor": processor}, sampling]
    tokens, failures, noted = draw(logits, rows)
    assert tokens == [free[0], 11, free[2]] == noted
    assert failures == {}


def test_without_one_a_step_has_nothing_to_do() -> None:
    table = make_table([{}, {"processor": RowProcessor(Recording(), None)}], VOCAB)
    assert table.processing(np.array([0])) is None
    assert table.processing(np.array([0, 1])) is not None
    table.set_rows([SamplingRow(1, prompt_len=0, seed=0)])
    assert table.processing(np.array([0, 1])) is None, "another request has the row now"


# ===== what they may do wrong =====


def changed_by(change):
    return RowProcessor(lambda logits, params: change(logits), None)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda logits: logits[:, :3], r"ValueError: it returned logits of shape \[1, 3\]"),
        (lambda logits: None, "TypeError: it returned NoneType"),
        (lambda logits: 1 / 0, "ZeroDivisionError"),
        (lambda logits: logits.fill_(-torch.inf), "left no token"),
        (lambda logits: logits.fill_(torch.nan), "left no token"),
        (lambda logits: logits.fill_(torch.finfo(torch.float32).min), "left no token"),
    ],
)
@pytest.mark.parametrize("sampling", [{}, {"temperature": 0.0}, {"top_p": 0.5, "top_k": 5}])
def test_a_processor_that_fails_costs_its_own_row_alone(change, reason, sampling) -> None:
    logits = some_logits(2)
    free = draw(logits, [sampling] * 2)[0]
    rows = [sampling, {**sampling, "processor": changed_by(change)}]
    tokens, failures, noted = draw(logits, rows)
    assert tokens[0] == free[0]
    assert list(failures) == [1]
    assert re.search(reason, failures[1])
    assert 0 <= noted[1] < VOCAB, "the device goes on with a token that there is"


class Unspeakable(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no words")


@pytest.mark.parametrize("error", [ValueError("\udc80" * 1000), Unspeakable(), ValueError("é")])
def test_whatever_an_error_holds_can_be_told(error) -> None:
    def fail(logits):
        raise error

    _, failures, _ = draw(some_logits(1), [{"processor": changed_by(fail)}])
    assert type(error).__name__ in failures[0]
    assert len(msgspec.msgpack.encode(failures[0])) < 1000


def test_wrong_parameters_of_one_request_are_no_failure_of_another() -> None:
    processor = OnlyToken()
    rows = [{"token_id": 4}, {"token": 4}, {"token_id": VOCAB}, {"token_id": 9}]
    parameters = [{"processor": RowProcessor(processor, params)} for params in rows]
    tokens, failures, _ = draw(some_logits(4), parameters)
    assert (tokens[0], tokens[3]) == (4, 9)
    assert failures.keys() == {1, 2}
    assert "KeyError: 'token_id'" in failures[1]
    assert "IndexError" in failures[2]


def test_a_processor_may_keep_what_cannot_be_copied() -> None:
    def each_its_next_token(logits, custom_param_list):
        for row, params in zip(logits, custom_param_list, strict=True):
            tokens = params.setdefault("tokens", iter(range(params["first"], VOCAB)))
            row[next(tokens)] = 1000.0
        return logits

    rows = [
        {"processor": RowProcessor(each_its_next_token, {"first": 4, "lock": threading.Lock()})},
        {"processor": RowProcessor(each_its_next_token, {"first": 20})},
    ]
    for step in range(2):
        tokens, failures, _ = draw(some_logits(2), rows)
        assert (tokens, failures) == ([4 + step, 20 + step], {})


@pytest.mark.parametrize("sampling", [{}, {"temperature": 1e-6, "top_p": 0.5}])
def test_infinite_logits_choose_among_their_tokens(sampling: dict) -> None:
    def force(logits):
        logits[:, [3, 8]] = torch.inf
        logits[:, 5] = torch.nan
        return logits

    tokens, failures, _ = draw(some_logits(1), [{**sampling, "processor": changed_by(force)}])
    assert tokens[0] in (3, 8)
    assert failures == {}
    assert NO_TOKEN not in tokens
