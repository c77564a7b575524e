"""Text that a grammar forces is appended, and everything else stays as it was."""

from __future__ import annotations

import json
import random
import re
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from worker.embedded_models import EMBEDDED_MODELS
from worker.grammar.xgrammar import _Matcher
from worker.messages import GrammarSpec, LogprobOptions, SamplingParams
from worker.tokenization.tokenizer import load_tokenizer

from ..checkpoints import make_checkpoint
from ..tokenization.tiny_tokenizer import write_tiny_tokenizer
from .harness import Engine

# The character schema of SGLang's documentation.
CHARACTER = (
    r"""\{\n"""
    r"""    "name": "[\w\d\s]{1,16}",\n"""
    r"""    "house": "(Gryffindor|Slytherin|Ravenclaw|Hufflepuff)",\n"""
    r"""    "blood status": "(Pure-blood|Half-blood|Muggle-born)",\n"""
    r"""    "occupation": "(student|teacher|auror|ministry of magic|death eater|"""
    r"""order of the phoenix)",\n"""
    r"""    "wand": \{\n"""
    r"""        "wood": "[\w\d\s]{1,16}",\n"""
    r"""        "core": "[\w\d\s]{1,16}",\n"""
    r"""        "length": [0-9]{1,2}\.[0-9]{0,2}\n"""
    r"""    \},\n"""
    r"""    "alive": "(Alive|Deceased)",\n"""
    r"""    "patronus": "[\w\d\s]{1,16}",\n"""
    r"""    "bogart": "[\w\d\s]{1,16}"\n"""
    r"""\}"""
)
# No two of their characters make a longer token: an answer has the same tokens in any case.
PLAIN = ("(012[a-c]345[a-c]){8}", "[a-c]{2}<0123456789>[a-c]", "(ab[0-9]|cd(98|76)x){18}")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = make_checkpoint(
        tmp_path_factory.mktemp("llama2"), "llama2", vocab_size=300, max_position_embeddings=512
    )
    return write_tiny_tokenizer(folder)


@pytest.fixture(scope="module")
def tokenizer(model):
    return load_tokenizer(model)


def another(
    model, like: Engine, *, overlap: bool = False, cost: int = 0, graph_tokens: int = 0, **args
) -> Engine:
    """An engine with other options, and the compiler of one that there is."""
    engine = Engine(model, random_seed=0, **args)
    engine.scheduler.grammars = like.scheduler.grammars
    engine.scheduler.options = replace(
        engine.scheduler.options,
        overlap=overlap,
        jump_forward_cost=cost,
        graph_tokens=graph_tokens,
    )
    return engine


def regex(text: str) -> GrammarSpec:
    return GrammarSpec("regex", text)


def add_plain(engine: Engine, count: int = 4) -> list[str]:
    """Requests whose answers do not depend on where tokens end, greedy ones and others."""
    rids = []
    for i in range(count):
        sampling = {"temperature": 1.0, "seed": i} if i % 2 else {}
        if i % 3 == 2:
            sampling |= {"frequency_penalty": 0.9, "repetition_penalty": 1.3, "presence_penalty": 1}
        rids += [
            engine.add([5, 6, *range(3, 9 + i)], 60, grammar=regex(text), **sampling)
            for text in PLAIN
        ]
    return rids


def answers(engine: Engine, rids: list[str]) -> list[list[int]]:
    return [engine.answer(rid) for rid in rids]


@pytest.fixture(scope="module")
def expected(plain) -> list[list[int]]:
    rids = add_plain(plain)
    plain.run()
    assert plain.scheduler.counters.forced_tokens == 0
    return answers(plain, rids)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(
    "args",
    [
        {},
        {"chunked_prefill_size": 4},
        {"chunked_prefill_size": 5, "enable_mixed_chunk": True, "page_size": 4},
        {"max_total_tokens": 160},
        {"max_total_tokens": 160, "disable_radix_cache": True},
        {"max_running_requests": 2},
    ],
)
def test_answers_are_those_of_a_model_that_is_asked_for_each_token(
    model, jumping, expected, overlap, args, monkeypatch
):
    if "max_total_tokens" in args:  # more are admitted than there is room for
        monkeypatch.setattr("worker.scheduler.scheduler.RESERVE_LIMIT", 8)
    engine = another(model, jumping, overlap=overlap, **args)
    free = [engine.add([9, 8, 7, *range(3, 3 + i)], 20, ignore_eos=True) for i in range(3)]
    rids = add_plain(engine)
    engine.run()
    assert answers(engine, rids) == expected
    assert all(len(engine.answer(rid)) == 20 for rid in free)
    counters = engine.scheduler.counters
    assert counters.forced_tokens > 0.3 * sum(map(len, expected))
    assert counters.generated_tokens == sum(map(len, expected)) + 60
    assert not engine.scheduler.jumped
    if "max_total_tokens" in args:
        assert counters.retractions > 0


def test_free_requests_are_not_touched(model, jumping, plain):
    prompts = [[5, 6, 7], list(range(3, 40))]
    alone = plain.generate(prompts, 24, ignore_eos=True)
    for overlap in (False, True):
        engine = another(model, jumping, overlap=overlap)
        free = [engine.add(prompt, 24, ignore_eos=True) for prompt in prompts]
        add_plain(engine, 2)
        engine.run()
        assert answers(engine, free) == alone


@pytest.mark.parametrize("overlap", [False, True])
def test_the_character_schema_takes_a_third_fewer_steps(model, jumping, plain, tokenizer, overlap):
    steps = []
    for like in (plain, jumping):
        engine = another(model, like, overlap=overlap)
        rid = engine.add([5, 6, 7], 400, temperature=1.0, seed=1, grammar=regex(CHARACTER))
        engine.run()
        assert re.fullmatch(CHARACTER, tokenizer.decode(engine.answer(rid)))
        steps.append(engine.scheduler.counters.steps)
    assert steps[1] < 2 / 3 * steps[0], steps


def test_smollm2_takes_a_third_fewer_steps_for_the_character_schema():
    path = EMBEDDED_MODELS["smollm2-135m"].path
    if not path.exists():
        pytest.skip("the embedded model is not here: run 'radixfleet pull smollm2-135m'")
    tokenizer = load_tokenizer(path)
    prompt = tokenizer.encode("Hermione Granger is a character in Harry Potter. As JSON:\n")
    engine = Engine(path, dtype="auto", max_total_tokens=1024)
    steps, texts = [0], []
    for logprobs in (LogprobOptions(), None):  # who asks for these does not jump
        params = SamplingParams(256, temperature=0.0, grammar=regex(CHARACTER))
        rid = engine.ask(prompt, params, logprobs=logprobs)
        engine.run()
        texts.append(tokenizer.decode(engine.answer(rid)))
        assert re.fullmatch(CHARACTER, texts[-1]), texts[-1]
        steps.append(engine.scheduler.counters.steps)
    engine.scheduler.grammars.close()
    _, without, both = steps
    assert both - without < 2 / 3 * without, (steps, texts)


def test_an_answer_without_a_choice_needs_no_step(jumping, plain, tokenizer):
    text = 'in {"the é": "door"}'
    for engine in (jumping, plain):
        before = engine.scheduler.counters.steps
        rid = engine.add([5, 6], 50, grammar=regex(re.escape(text)))
        engine.run()
        assert tokenizer.decode(engine.answer(rid)) == text
        assert engine.finish[rid].kind == "stop"
        if engine is jumping:
            assert engine.scheduler.counters.steps == before
            assert engine.answer(rid) == tokenizer.encode(text, False)


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("limit", range(1, 13))
def test_answers_are_cut_at_exactly_their_limit(model, jumping, plain, overlap, limit):
    cut, whole = another(model, jumping, overlap=overlap), another(model, plain)
    spec = regex("01[a-c]234[a-c]5678")
    rids = [engine.add([5, 6, 7], limit, grammar=spec) for engine in (cut, whole)]
    cut.run()
    whole.run()
    assert cut.answer(rids[0]) == whole.answer(rids[1])
    assert cut.finish[rids[0]] == whole.finish[rids[1]]


def test_who_wants_each_tokens_log_probability_does_not_jump(jumping):
    before = jumping.scheduler.counters.forced_tokens
    params = SamplingParams(60, temperature=0.0, grammar=regex(PLAIN[0]))
    rids = [
        jumping.ask([5, 6, 7], params, logprobs=LogprobOptions()),
        jumping.ask([5, 6, 7], params, return_hidden_states=True),
    ]
    jumping.run()
    assert jumping.scheduler.counters.forced_tokens == before
    found = [value for chunk in jumping.chunks[rids[0]] for value in chunk.logprobs.chosen]
    assert len(found) == len(jumping.answer(rids[0])) == len(jumping.answer(rids[1]))


def test_forced_tokens_are_sent_with_the_one_before(jumping):
    spec = regex("[a-c]0123[a-c]4567[a-c]")
    for interval, sizes in [(1, [5, 5, 1]), (3, [5, 5, 1]), (6, [5, 6]), (0, [5, 6])]:
        params = SamplingParams(60, temperature=0.0, grammar=spec)
        rid = jumping.ask([5, 6, 7], params, stream_interval=interval)
        jumping.run()
        assert [len(chunk.token_ids) for chunk in jumping.chunks[rid]] == sizes


def test_no_more_than_the_prompt_counts_as_cached(jumping):
    prompt = [11, 12, 13, 14]
    rids = []
    for _ in range(2):
        rids.append(jumping.add(prompt, 60, grammar=regex("0123456[a-c]")))
        jumping.run()
    assert [jumping.cached[rid] for rid in rids] == [0, 4]


@pytest.mark.parametrize("mixed", [False, True])
def test_prompts_that_fill_all_steps_do_not_keep_jumped_ones_waiting(model, jumping, mixed):
    engine = another(model, jumping, chunked_prefill_size=8, enable_mixed_chunk=mixed)
    rid = engine.add([5, 6, 7], 60, grammar=regex("[a-c]01234567[a-c]01234567[a-c]"))
    while rid not in engine.chunks:
        engine.step()
    prompts = [engine.add([i, *range(3, 200)], 1, ignore_eos=True) for i in range(3, 6)]
    while rid not in engine.finish:
        engine.step()
    assert not engine.chunks.keys() & set(prompts)
    engine.run()


def test_a_jump_has_to_pay_for_what_it_costs_others(model, jumping):
    spec = regex("[a-c]01234[a-c]5678901234567890[a-c]")
    for cost, count, forced in [
        (0, 1, 21),
        (3, 1, 21),
        (4, 1, 16),
        (14, 1, 16),
        (15, 1, 0),
        (4, 3, 16),
        (5, 3, 0),
    ]:
        engine = another(model, jumping, overlap=True, cost=cost)
        free = [engine.add([7, i], 40, ignore_eos=True) for i in range(3, 2 + count)]
        engine.step()
        engine.add([5, 6, 7], 60, grammar=spec)
        engine.run()
        assert engine.scheduler.counters.forced_tokens == forced, (cost, count)
        assert all(len(engine.answer(rid)) == 40 for rid in free)


@pytest.mark.parametrize(
    ("graph_tokens", "keys", "forced"),
    [(0, 9999, 0), (1, 9999, 0), (2, 9999, 0), (17, 9999, 21), (40, 9999, 21), (40, 60, 0)],
)
def test_a_jump_that_fits_into_a_graph_costs_nothing(
    model, jumping, graph_tokens, keys, forced, monkeypatch
):
    monkeypatch.setattr("worker.scheduler.scheduler.MOST_FORCED_KEYS", keys)
    engine = another(model, jumping, overlap=True, cost=1000, graph_tokens=graph_tokens)
    spec = regex("[a-c]01234[a-c]5678901234567890[a-c]")
    rid = engine.add([5, 6, 7], 60, grammar=spec)
    engine.run()
    assert len(engine.answer(rid)) == 24
    assert engine.scheduler.counters.forced_tokens == forced


def test_a_jump_is_cut_to_the_room_in_a_graph(model, jumping):
    engine = another(model, jumping, overlap=True, cost=1000, graph_tokens=8)
    rids = [engine.add([7, i], 60, grammar=regex("[a-c]0123456789[a-c]")) for i in range(3, 6)]
    engine.run()
    assert all(engine.finish[rid].kind == "stop" for rid in rids)
    assert 3 <= engine.scheduler.counters.forced_tokens < 30


def random_regex(rng: random.Random) -> str:
    parts = []
    for _ in range(rng.randint(2, 5)):
        fixed = "".join(rng.choices("the in or é:{", k=rng.randint(1, 12)))
        free = rng.choice(["[a-z ]{1,4}", "(the|then|in the|or)", "[0-9]*", "(é|è|日本|😀)", "x?"])
        parts.append(re.escape(fixed) + free)
    return "".join(parts)


@pytest.mark.parametrize("overlap", [False, True])
def test_any_mix_of_requests_and_aborts_obeys_and_leaves_nothing_behind(
    model, jumping, tokenizer, overlap, monkeypatch
):
    monkeypatch.setattr("worker.scheduler.scheduler.RESERVE_LIMIT", 8)  # so that too many come in
    rng = random.Random(5)
    engine = another(
        model,
        jumping,
        overlap=overlap,
        max_total_tokens=200,
        schedule_conservativeness=0.05,
        chunked_prefill_size=16,
        enable_mixed_chunk=True,
    )
    specs = [random_regex(rng) for _ in range(12)]
    for spec in specs:  # so that nobody waits for a grammar later
        jumping.add([5, 6], 1, grammar=regex(spec))
    jumping.run()
    asked: dict[str, str] = {}
    aborted = set()
    for _ in range(60):
        spec = rng.choice(specs)
        prompt = rng.choices(range(3, 250), k=rng.randint(1, 30))
        interval = rng.choice([0, 1, 3])
        params = SamplingParams(90, temperature=1.0, grammar=regex(spec), ignore_eos=True)
        asked[engine.ask(prompt, params, stream_interval=interval)] = spec
        for _ in range(rng.randint(0, 4)):
            engine.step()
        if rng.random() < 0.2:
            aborted.add(victim := rng.choice(list(asked)))
            engine.scheduler.abort(victim)
    engine.run()
    whole = [rid for rid in asked if rid in engine.finish]
    assert len(whole) >= len(asked) - len(aborted)
    for rid in whole:
        text = tokenizer.decode(engine.answer(rid))
        if engine.finish[rid].kind == "stop":
            assert re.fullmatch(asked[rid], text), (asked[rid], text)
        else:
            assert len(engine.answer(rid)) == 90
    assert sum(engine.finish[rid].kind == "stop" for rid in whole) > len(whole) / 2
    assert engine.scheduler.counters.forced_tokens > 100
    assert engine.scheduler.counters.retractions > 0


PROGRAM = """
import json, sys
from tests.worker.engine.harness import Engine
from tests.worker.engine.test_jump_forward import add_plain, answers
engine = Engine(sys.argv[1], tp_size=2, random_seed=0)
rids = add_plain(engine, 2)
engine.run()
engine.scheduler.grammars.close()
print(json.dumps([engine.scheduler.counters.forced_tokens, answers(engine, rids)]))
"""


def test_two_ranks_jump_alike(model, expected):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(model)], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    forced, found = json.loads(done.stdout)
    assert found == expected[: len(found)]
    assert forced > 0.3 * sum(map(len, found))


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize(
    "args",
    [
        {},
        {"chunked_prefill_size": 5, "enable_mixed_chunk": True, "page_size": 4},
        {"max_total_tokens": 160},
    ],
)
def test_what_a_mask_allows_and_its_grammar_does_not_is_drawn_again(
    model, jumping, expected, overlap, args, monkeypatch
):
    fill_mask = _Matcher.fill_mask

    def fill_wide_mask(self: _Matcher, mask: np.ndarray) -> None:
        fill_mask(self, mask)
        if not self.is_complete:
            mask[2:4] = -1

    monkeypatch.setattr(_Matcher, "fill_mask", fill_wide_mask)
    if "max_total_tokens" in args:
        monkeypatch.setattr("worker.scheduler.scheduler.RESERVE_LIMIT", 8)
    engine = another(model, jumping, overlap=overlap, **args)
    free = engine.add([9, 8, 7], 20, ignore_eos=True)
    rids = add_plain(engine)
    engine.run()
    assert answers(engine, rids) == expected
    assert len(engine.answer(free)) == 20
    if "max_total_tokens" in args:
        assert engine.scheduler.counters.retractions > 0


def test_an_answer_whose_masks_are_never_right_ends(model, jumping, monkeypatch):
    monkeypatch.setattr(_Matcher, "fill_mask", lambda _, mask: mask.fill(-1))
    monkeypatch.setattr(_Matcher, "accept", lambda *_: False)
    engine = another(model, jumping)
    rids = [engine.add([3, 4, i], 9, grammar=regex("[a-z]{9}")) for i in range(5, 8)]
    params = SamplingParams(max_new_tokens=9, grammar=regex("[a-z]{9}"))
    rids.append(engine.ask([3, 4], params, logprobs=LogprobOptions()))
    engine.run()
    for rid in rids:
        finish = engine.finish[rid]
        assert (finish.kind, finish.status) == ("abort", 400)
        assert "grammar does not allow" in (finish.message or "")
