"""Whole answers under a grammar come as often as Hugging Face's probabilities say."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
import torch

from worker.messages import GrammarSpec
from worker.tokenization.tokenizer import load_tokenizer

from ..checkpoints import hf_reference, make_checkpoint
from ..tokenization.tiny_tokenizer import write_tiny_tokenizer
from .harness import Engine

EOS = 2
PROMPT = [5, 6, 7]
DRAWN = 1500
# "he", "in" and "or" are tokens, too: most words come in several ways. Each beginning is a word.
WORDS = ("h", "he", "i", "in", "inn", "o", "or")

Probabilities = dict[tuple[int, ...], float]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = make_checkpoint(tmp_path_factory.mktemp("llama2"), "llama2", vocab_size=300)
    return write_tiny_tokenizer(folder)


def expected_answers(model: Path, temperature: float) -> Probabilities:
    """What each answer's probability is, with an end where another word could follow."""
    reference = hf_reference(model)
    tokens = {token: text.decode() for token, text in _texts(model).items()}
    found: Probabilities = {}

    def follow(answer: tuple[int, ...], text: str, probability: float) -> None:
        next_texts = {token: text + each for token, each in tokens.items()}
        allowed = [t for t, each in next_texts.items() if any(w.startswith(each) for w in WORDS)]
        if not allowed:
            found[answer] = probability
            return
        with torch.no_grad():
            logits = reference(torch.tensor([[*PROMPT, *answer]])).logits[0, -1]
        allowed += [EOS] if text in WORDS else []
        shares = (logits[allowed] / temperature).softmax(-1).tolist()
        for token, share in zip(allowed, shares, strict=True):
            if token == EOS:
                found[*answer, EOS] = probability * share
            else:
                follow((*answer, token), next_texts[token], probability * share)

    follow((), "", 1.0)
    return found


def _texts(model: Path) -> dict[int, bytes]:
    """Of tokens of which the words may consist."""
    token_bytes = load_tokenizer(model).token_bytes
    texts = {token: token_bytes.of(token, True) for token in range(3, 300)}
    return {token: text for token, text in texts.items() if text and text.isascii()}


def chi_square_limit(freedom: int) -> float:
    """Exceeded once in a thousand times (Wilson and Hilferty's approximation)."""
    spread = 2 / (9 * freedom)
    return freedom * (1 - spread + 3.09 * spread**0.5) ** 3


@pytest.mark.parametrize("temperature", [1.0, 0.6])
@pytest.mark.parametrize("backend", ["xgrammar", "llguidance", "outlines"])
def test_answers_come_as_often_as_they_should(model, backend, temperature):
    expected = expected_answers(model, temperature)
    assert abs(sum(expected.values()) - 1) < 1e-5
    assert len(expected) > 10
    engine = Engine(model, grammar_backend=backend)
    grammar = GrammarSpec("regex", "|".join(WORDS))
    rids = []
    for seed in range(DRAWN):
        sampling = {"temperature": temperature, "seed": seed}
        rids.append(engine.add(PROMPT, 8, grammar=grammar, **sampling))
        if seed % 20 == 0:
            engine.add([*PROMPT, 8], 5, **sampling)
    engine.run()
    engine.scheduler.grammars.close()
    drawn = Counter(tuple(engine.answer(rid)) for rid in rids)
    assert drawn.keys() <= expected.keys()
    distance = sum(
        (drawn[answer] - DRAWN * share) ** 2 / (DRAWN * share) for answer, share in expected.items()
    )
    assert distance < chi_square_limit(len(expected) - 1)
