"""Answers held to grammars in the running engine, by a model that does not want to obey."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import replace

import jsonschema
import numpy as np
import pytest

from worker.messages import GrammarSpec, LogprobOptions, Reasoning, SamplingParams
from worker.tokenization.tokenizer import load_tokenizer

from ..checkpoints import make_checkpoint
from ..tokenization.tiny_tokenizer import write_tiny_tokenizer
from .harness import Engine

EOS = 2
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "pattern": "^[a-z]{2,5}$"},
        "age": {"type": "integer", "minimum": 0, "maximum": 120},
        "tags": {"type": "array", "items": {"enum": ["x", "yy"]}, "minItems": 1, "maxItems": 3},
    },
    "required": ["name", "age", "tags"],
}
GRAMMARS = (
    GrammarSpec("json_schema", json.dumps(SCHEMA)),
    GrammarSpec("regex", "[a-f]{3,9}(the|in)?"),
    GrammarSpec("ebnf", 'root ::= "<" item{2,4} ">"\nitem ::= [a-z] | "(" item ")" | "é"'),
)
EBNF_AS_REGEX = r"<(?:\(*(?:[a-z]|é)\)*){2,4}>"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_checkpoint(tmp_path_factory.mktemp("llama2"), "llama2", vocab_size=300)
    return write_tiny_tokenizer(folder)


@pytest.fixture(scope="module")
def engine(model):
    engine = Engine(model, random_seed=0)
    yield engine
    engine.scheduler.grammars.close()


@pytest.fixture(scope="module")
def tokenizer(model):
    return load_tokenizer(model)


def check(text: str, spec: GrammarSpec) -> None:
    """Raises if `text` is not what one of GRAMMARS allows."""
    match spec.kind:
        case "json_schema":
            jsonschema.validate(json.loads(text), SCHEMA)
        case "regex":
            assert re.fullmatch(spec.text, text), text
        case "ebnf":
            assert re.fullmatch(EBNF_AS_REGEX, text), text
            assert text.count("(") == text.count(")")


def add_all(engine: Engine, copies: int, max_new_tokens: int = 100) -> dict[str, GrammarSpec]:
    """`copies` requests for each grammar, and free ones between them."""
    added = {}
    for i in range(copies):
        engine.add([9, 8, 7, *range(3, 3 + i)], 30, temperature=1.0)
        for spec in GRAMMARS:
            prompt = [5, 6, *range(3, 12 + i)]
            rid = engine.add(prompt, max_new_tokens, temperature=1.0, grammar=spec)
            added[rid] = spec
    return added


def check_all(engine: Engine, tokenizer, added: dict[str, GrammarSpec]) -> None:
    for rid, spec in added.items():
        assert engine.finish[rid].kind == "stop", (engine.finish[rid], engine.answer(rid))
        tokens = engine.answer(rid)
        assert EOS not in tokens[:-1]
        check(tokenizer.decode(tokens), spec)


def add_with_reasoning(engine: Engine, tokenizer) -> dict[str, Reasoning]:
    """Requests whose answers begin inside of a reasoning, and others that may begin with one."""
    likely = [(token, 5.0) for token in tokenizer.encode("<>")]
    added = {}
    for i in range(8):
        reasoning = Reasoning("<", ">", is_open=i % 2 == 0)
        prompt = [7, 6, 5, *range(3, 4 + i)]
        rid = engine.add(
            prompt,
            90,
            temperature=1.0,
            logit_bias=tuple(likely),  # else they would hardly come
            grammar=GRAMMARS[1],
            reasoning=reasoning,
        )
        added[rid] = reasoning
    return added


def check_reasoning(engine: Engine, tokenizer, added: dict[str, Reasoning]) -> None:
    form, reasoned = re.compile(rf"(?:(.*?)>\s*)?{GRAMMARS[1].text}", re.DOTALL), 0
    for rid, reasoning in added.items():
        assert engine.finish[rid].kind == "stop"
        text = tokenizer.decode(engine.answer(rid))
        found = form.fullmatch(text)
        assert found, text
        reasoned += found[1] is not None
        if reasoning.is_open:
            assert found[1] is not None
        else:
            assert found[1] is None or found[1].startswith("<")
    assert reasoned > len(added) // 2


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunked_prefill_size": 4},
        {"chunked_prefill_size": 6, "enable_mixed_chunk": True, "page_size": 4},
        {"max_total_tokens": 128, "schedule_conservativeness": 0.05, "disable_radix_cache": True},
    ],
)
def test_answers_are_what_the_grammars_allow(model, tokenizer, engine, overlap, options):
    other = Engine(model, random_seed=1, **options)
    other.scheduler.grammars = engine.scheduler.grammars  # whose compiler runs
    other.scheduler.options = replace(other.scheduler.options, overlap=overlap)
    added = add_all(other, 6)
    long = GrammarSpec("regex", "[a-z]{60}")  # so that memory runs out for some
    added |= {other.add([5, 6, i], 90, temperature=1.0, grammar=long): long for i in range(6)}
    reasoned = add_with_reasoning(other, tokenizer)
    other.run()
    check_all(other, tokenizer, added)
    check_reasoning(other, tokenizer, reasoned)
    if "max_total_tokens" in options:
        assert other.scheduler.counters.retractions > 0


@pytest.mark.parametrize("backend", ["llguidance", "outlines"])
def test_other_backends_do_the_same(model, tokenizer, backend):
    other = Engine(model, random_seed=1, grammar_backend=backend)
    added = add_all(other, 2)
    other.run()
    other.scheduler.grammars.close()
    if backend == "outlines":  # which has no grammars
        for rid in [rid for rid, spec in added.items() if spec.kind == "ebnf"]:
            finish = other.finish[rid]
            del added[rid]
            assert (finish.status, "xgrammar" in finish.message) == (400, True)
    check_all(other, tokenizer, added)


@pytest.mark.parametrize("stop_after_first", [False, True])
def test_structures_in_free_text(engine, tokenizer, stop_after_first):
    tag = {
        "structures": [
            {"begin": f"<{i}>", "schema": {"enum": [i, [i]]}, "end": ";"} for i in (1, 2)
        ],
        "triggers": ["<"],
        "stop_after_first": stop_after_first,
    }
    (trigger,) = tokenizer.encode("<")
    rids = [
        engine.add(
            [5, 6, 7 + i],
            80,
            temperature=1.0,
            logit_bias=((trigger, 4.0),),  # else it would hardly come
            grammar=GrammarSpec("structural_tag", json.dumps(tag)),
        )
        for i in range(8)
    ]
    engine.run()
    structure = re.compile(r"<1>(?:1|\[1\]);|<2>(?:2|\[2\]);")
    found = 0
    for rid in rids:
        text = tokenizer.decode(engine.answer(rid))
        found += len(structure.findall(text))
        left = structure.sub("", text)
        if engine.finish[rid].kind == "length":  # in the middle of one, perhaps
            left = re.sub(r"<(1?>?\[?1?\]?|2?>?\[?2?\]?)$", "", left)
        assert "<" not in left
        if stop_after_first:
            assert structure.search(text) is None or re.fullmatch(r"[^<]*<[^<]*;", text)
    assert found >= 8 if not stop_after_first else found > 4


def test_free_requests_are_not_touched(model, engine):
    alone, mixed = Engine(model), Engine(model)
    mixed.scheduler.grammars = engine.scheduler.grammars
    prompts = [[5, 6, 7], list(range(3, 40))]
    expected = alone.generate(prompts, 24, ignore_eos=True)
    free = [mixed.add(prompt, 24, ignore_eos=True) for prompt in prompts]
    held = add_all(mixed, 2)
    mixed.run()
    assert [mixed.answer(rid) for rid in free] == expected
    assert len(held) == 6


def test_allowed_tokens_keep_their_relative_probabilities(engine, tokenizer):
    """By raw log-probabilities: a first token drawn very often, at two temperatures."""
    letters = "abcde"
    tokens = [tokenizer.encode(letter)[0] for letter in letters]
    options = LogprobOptions(token_ids=tuple(tokens))
    for temperature in (1.0, 0.7):
        rids = [
            engine.ask(
                [5, 6, 7],
                SamplingParams(
                    1, temperature=temperature, seed=i, grammar=GrammarSpec("regex", "[a-e]x")
                ),
                logprobs=options,
            )
            for i in range(1500)
        ]
        engine.run()
        (wanted,) = engine.chunks[rids[0]][0].logprobs.wanted
        assert np.exp(wanted).sum() < 0.5  # the model would rather say something else
        weights = np.exp(np.array(wanted) / temperature)
        expected = weights / weights.sum()
        drawn = [tokens.index(engine.answer(rid)[0]) for rid in rids]
        shares = np.bincount(drawn, minlength=len(tokens)) / len(rids)
        spread = np.sqrt(expected * (1 - expected) / len(rids))
        assert (np.abs(shares - expected) < 4 * spread + 1e-9).all()


def test_an_answer_that_is_cut_says_length(engine):
    rid = engine.add([5, 6], 3, grammar=GrammarSpec("regex", "[a-z]{9}"))
    engine.run()
    assert engine.finish[rid].kind == "length"
    assert len(engine.answer(rid)) == 3


@pytest.mark.parametrize("sampling", [{}, {"ignore_eos": True}, {"min_new_tokens": 20}])
def test_it_ends_where_the_grammar_allows_nothing_else(engine, tokenizer, sampling):
    rid = engine.add([5, 6], 50, grammar=GrammarSpec("regex", "abc"), **sampling)
    engine.run()
    assert tokenizer.decode(engine.answer(rid)) == "abc"
    assert engine.finish[rid].kind == "stop"


def test_penalties_bias_and_a_least_length_hold_beside_a_grammar(engine, tokenizer):
    (a,), (b,) = tokenizer.encode("a"), tokenizer.encode("b")
    sampling = {"logit_bias": ((a, -100.0), (EOS, 100.0)), "min_new_tokens": 6}
    rid = engine.add([5, 6], 50, grammar=GrammarSpec("regex", "[ab]+"), **sampling)
    engine.run()
    assert engine.answer(rid) == [b] * 6 + [EOS]


def test_a_grammar_without_any_text_ends_at_once(engine):
    rid = engine.add([5, 6], 50, grammar=GrammarSpec("regex", ""))
    engine.run()
    assert engine.answer(rid) == []
    assert engine.finish[rid].kind == "stop"


def test_a_bad_grammar_costs_its_own_request(engine):
    bad = engine.add([5, 6], 5, grammar=GrammarSpec("regex", "(a"))
    good = engine.add([5, 6], 5, grammar=GrammarSpec("regex", "ab"))
    free = engine.add([5, 6], 5, ignore_eos=True)
    engine.run()
    assert engine.finish[bad].status == 400
    assert "no regular expression" in engine.finish[bad].message
    assert (engine.finish[good].kind, engine.finish[free].kind) == ("stop", "length")
    known = engine.add([5, 6], 5, grammar=GrammarSpec("regex", "(a"))
    assert engine.finish[known] == engine.finish[bad]  # at once


def test_one_that_is_too_long_is_refused_at_once(engine):
    rid = engine.add([5, 6], 5, grammar=GrammarSpec("regex", "a" * (1 << 20) + "b"))
    assert "1048577 characters" in engine.finish[rid].message
    assert engine.scheduler.is_idle


def test_a_request_can_be_aborted_while_its_grammar_is_compiled(engine):
    spec = GrammarSpec("regex", "aborted")
    first, second = (engine.add([5, 6], 9, grammar=spec) for _ in range(2))
    assert engine.scheduler.state("").waiting_requests == 2
    engine.scheduler.abort(first)
    engine.run()
    assert first not in engine.chunks
    assert engine.finish[second].kind == "stop"


PROGRAM = """
import json, sys
from tests.worker.engine.harness import Engine
from tests.worker.engine.test_grammars import add_all
engine = Engine(sys.argv[1], tp_size=int(sys.argv[2]), random_seed=3)
added = add_all(engine, 2)
engine.run()
engine.scheduler.grammars.close()
print(json.dumps([engine.answer(rid) for rid in added]))
"""


def answers(model, ranks: int) -> list[list[int]]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model), str(ranks)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_two_ranks_obey_as_one_does(model, tokenizer):
    one, two = answers(model, 1), answers(model, 2)
    assert one == two
    for tokens, spec in zip(two, GRAMMARS * 2, strict=True):
        check(tokenizer.decode(tokens), spec)


def test_without_a_tokenizer_there_are_no_grammars(model):
    engine = Engine(model, skip_tokenizer_init=True)
    rid = engine.add([5, 6], 5, grammar=GRAMMARS[1])
    assert "Without a tokenizer" in engine.finish[rid].message
