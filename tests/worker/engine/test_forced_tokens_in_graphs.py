"""Forced tokens as rows of the CUDA graphs that decode: the same answers, and no other launches.

On a CPU, where a double replays what was recorded, with our kernels in Triton's interpreter.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch

from worker.grammar.constraint import Constraint
from worker.messages import GrammarSpec, SamplingParams
from worker.runtime.cuda_graphs import DecodeGraphs
from worker.runtime.step_input import StepInput
from worker.tokenization.input_embeds import pack_embeddings

from ..checkpoints import make_checkpoint
from ..runtime.cpu_graphs import CpuUploader, Recorder
from ..tokenization.tiny_tokenizer import write_tiny_tokenizer
from ..triton_interpreter import interpret_kernels
from .harness import Engine
from .test_jump_forward import another, answers


class CpuGraphs(DecodeGraphs):
    """Over a page table and tokens of its own, as a GPU has them."""

    def __init__(self, engine: Engine) -> None:
        control = engine.scheduler._engine
        assert control is not None
        self.runner = control._runner
        rows, columns = self.runner._page_table.shape
        spare_slot = self.runner.total_tokens
        self.replayed: list[StepInput] = []
        self.left_out: list[StepInput] = []
        super().__init__(
            self.runner._hidden,
            self.runner._backend,
            torch.full((rows + 1, columns), spare_slot, dtype=torch.int32),
            torch.zeros(len(self.runner.next_tokens), dtype=torch.int32),
            CpuUploader(),  # pyright: ignore[reportArgumentType]
            batch_sizes=[1, 2, 4, 8, 16, 32],
            prefix_sharing=True,
            example_tokens=8,
            spare_row=rows,
            spare_slot=spare_slot,
            record=Recorder(),
        )
        self.runner._graphs = self

    def fits(self, step: StepInput) -> bool:
        fits = super().fits(step)
        if step.forced and not fits:
            self.left_out.append(step)
        return fits

    def replay(self, step: StepInput) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.replayed.append(step)
        table = self.runner._page_table
        self._page_table[: len(table)] = table
        self._next_tokens[: len(table)] = self.runner.next_tokens[: len(table)]
        hidden, rows, seq_lens = super().replay(step)
        return hidden.clone(), rows.long(), seq_lens.long()


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_checkpoint(
        tmp_path_factory.mktemp("llama2"), "llama2", vocab_size=300, num_hidden_layers=1
    )
    return write_tiny_tokenizer(folder)


def add_all(engine: Engine) -> list[str]:
    """Answers that do not depend on where tokens end, and a free one; a prompt in common."""
    prompt = [5, 6, *range(3, 10)]
    texts = ("(012[a-c]345[a-c]){3}", "[a-c]{2}<0123456789>[a-c]", "(ab[0-9]|cd(98|76)x){5}")
    more = ({}, {"temperature": 1.0, "seed": 3}, {"frequency_penalty": 0.9})
    held = [
        engine.add(prompt, 60, grammar=GrammarSpec("regex", text), **sampling)
        for text, sampling in zip(texts, more, strict=True)
    ]
    return [*held, engine.add([*prompt, 11], 15, ignore_eos=True)]


@pytest.mark.parametrize("args", [{}, {"chunked_prefill_size": 4}])
def test_answers_are_those_of_a_model_that_is_asked_for_each_token(model, plain, jumping, args):
    interpret_kernels()
    expected = add_all(plain)
    plain.run()
    args = {"attention_backend": "triton", "cost": 1000, "graph_tokens": 32, **args}
    engine = another(model, jumping, overlap=True, **args)
    graphs = CpuGraphs(engine)
    rids = add_all(engine)
    engine.run()
    assert answers(engine, rids) == answers(plain, expected)
    forced = [step for step in graphs.replayed if step.forced]
    assert sum(len(step.prompt_ids) for step in forced) > 20
    assert any(step.num_decodes and len(step.prompt_ids) > 1 for step in forced)
    cut = [step for step in forced if len(step.sampled) < len(step.rows)]
    assert bool(cut) == ("chunked_prefill_size" in args)
    assert not graphs.left_out


@pytest.mark.parametrize("overlap", [False, True])
def test_a_prompt_of_embeddings_is_no_text_when_its_first_token_is_drawn_again(
    model, jumping, overlap, monkeypatch
):
    """Its last embedding is computed once more, without a graph."""
    interpret_kernels()
    accept, refused = Constraint.accept, []

    def refuse_first(constraint: Constraint, place: int, token: int) -> bool:
        if constraint not in refused:
            refused.append(constraint)
            return not constraint._refuse(token)
        return accept(constraint, place, token)

    monkeypatch.setattr(Constraint, "accept", refuse_first)
    found, graphs = [], []
    for with_graphs in (False, True):
        engine = another(model, jumping, overlap=overlap, attention_backend="triton")
        graphs += [CpuGraphs(engine)] if with_graphs else []
        rows = np.random.default_rng(0).normal(size=(3, 9, engine.ready.hidden_size))
        grammar = GrammarSpec("regex", "[a-z]{3}")
        params = SamplingParams(3, temperature=0.0, grammar=grammar)
        rids = [
            engine.ask([0] * len(each), params, input_embeds=pack_embeddings(each.astype("f4")))
            for each in rows
        ]
        engine.run()
        found.append(answers(engine, rids))
    assert found[0] == found[1]
    assert len(refused) == 6
    assert graphs[0].left_out
