"""The offline engine: Hugging Face's tokens, SGLang's shapes of questions and answers."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from radixfleet import CustomLogitProcessor, Engine

from ..worker.checkpoints import hf_reference, make_checkpoint
from ..worker.tokenization.tiny_tokenizer import write_tiny_tokenizer

GREEDY = {"temperature": 0.0, "max_new_tokens": 12, "ignore_eos": True}
PROMPTS = ["the inner order", "hé", "in the end there is the one"]
ARGS = {"dtype": "float32", "device": "cpu", "num_threads": 1, "max_total_tokens": 512}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = write_tiny_tokenizer(tmp_path_factory.mktemp("model"))
    return make_checkpoint(folder, "qwen3", vocab_size=270)


@pytest.fixture(scope="module")
def engine(model):
    with Engine(model_path=str(model), **ARGS) as engine:
        yield engine


@pytest.fixture(autouse=True)
def _nothing_is_held(engine):
    yield
    assert engine.flush_cache()
    state = engine.scheduler.state("")
    assert (state.running_requests, state.free_tokens) == (0, state.total_tokens)


def hf_greedy(model, input_ids: list[int], count: int) -> list[int]:
    with torch.inference_mode():
        ids = torch.tensor([input_ids])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=count,
            min_new_tokens=count,
            do_sample=False,
        )
    return out[0, len(input_ids) :].tolist()


def test_greedy_answers_are_hugging_faces(model, engine):
    reference = hf_reference(model)
    reference.generation_config.eos_token_id = None
    answers = engine.generate(PROMPTS, GREEDY)
    for prompt, answer in zip(PROMPTS, answers, strict=True):
        input_ids = engine.tokenizer.encode(prompt)
        expected = hf_greedy(reference, input_ids, 12)
        assert answer["output_ids"] == expected
        assert answer["text"] == engine.tokenizer.decode(expected)
        meta = answer["meta_info"]
        assert (meta["prompt_tokens"], meta["completion_tokens"]) == (len(input_ids), 12)
        assert meta["finish_reason"] == {"type": "length", "length": 12}
    assert len({answer["meta_info"]["id"] for answer in answers}) == len(PROMPTS)


def test_one_prompt_has_one_answer_and_a_list_a_list(engine):
    alone = engine.generate(PROMPTS[0], GREEDY)
    ids = engine.tokenizer.encode(PROMPTS[0])
    for same in (
        engine.generate([PROMPTS[0]], [GREEDY])[0],
        engine.generate(input_ids=ids, sampling_params=GREEDY),
        engine.generate(input_ids=[ids], sampling_params=GREEDY)[0],
    ):
        assert (same["text"], same["output_ids"]) == (alone["text"], alone["output_ids"])
    assert alone["meta_info"]["cached_tokens"] == 0
    assert same["meta_info"]["cached_tokens"] == len(ids) - 1


def test_sampling_params_can_differ_from_prompt_to_prompt(engine):
    sampling = [GREEDY | {"max_new_tokens": count} for count in (1, 5, 9)]
    answers = engine.generate(PROMPTS, sampling)
    assert [len(answer["output_ids"]) for answer in answers] == [1, 5, 9]


def test_samples_of_a_prompt_stand_in_a_row(engine):
    sampling = {"seed": 3, "max_new_tokens": 6, "ignore_eos": True}
    alone = [
        engine.generate(prompt, sampling | {"seed": seed})["text"]
        for prompt in PROMPTS[:2]
        for seed in (3, 4)
    ]
    assert len(set(alone)) == 4
    answers = engine.generate(PROMPTS[:2], sampling | {"n": 2})
    assert [answer["text"] for answer in answers] == alone
    events = engine.generate(PROMPTS[0], sampling | {"n": 2}, stream=True)
    assert {event["index"]: event["text"] for event in events} == dict(enumerate(alone[:2]))


def test_a_stop_string_and_a_stop_token_end_an_answer(engine):
    whole = engine.generate(PROMPTS[0], GREEDY)
    stop = whole["text"][3:5]
    cut = engine.generate(PROMPTS[0], GREEDY | {"stop": stop})
    assert cut["text"] == whole["text"][: whole["text"].index(stop)]
    assert cut["meta_info"]["finish_reason"] == {"type": "stop", "matched": stop}
    count = cut["meta_info"]["completion_tokens"]
    assert cut["output_ids"] == whole["output_ids"][:count]
    token = whole["output_ids"][4]
    ended = engine.generate(PROMPTS[0], GREEDY | {"stop_token_ids": [token]})
    first = whole["output_ids"].index(token)
    assert ended["output_ids"] == whole["output_ids"][: first + 1]
    assert ended["meta_info"]["finish_reason"] == {"type": "stop", "matched": token}


def test_a_stream_grows_to_the_whole_answer(engine):
    whole = engine.generate(PROMPTS, GREEDY)
    last = {}
    for event in engine.generate(PROMPTS, GREEDY, stream=True):
        before = last.get(event["index"], {"text": "", "output_ids": []})
        assert event["text"].startswith(before["text"])
        assert event["output_ids"][:-1] == before["output_ids"]
        last[event["index"]] = event
    for index, answer in enumerate(whole):
        assert last[index]["output_ids"] == answer["output_ids"]
        assert last[index]["text"] == answer["text"]
        assert last[index]["meta_info"]["finish_reason"] is not None


def test_streams_can_be_read_in_turn(engine):
    whole = engine.generate(PROMPTS[:2], GREEDY)
    streams = [engine.generate(prompt, GREEDY, stream=True) for prompt in PROMPTS[:2]]
    *_, last = zip(*streams, strict=True)
    assert [event["output_ids"] for event in last] == [answer["output_ids"] for answer in whole]


def test_a_closed_stream_ends_its_requests(engine):
    stream = engine.generate(PROMPTS, GREEDY | {"max_new_tokens": 200}, stream=True)
    next(stream)
    assert not engine.flush_cache()
    stream.close()
    assert engine.flush_cache()


def test_max_new_tokens_none_fills_the_context(engine):
    answer = engine.generate("in", {"max_new_tokens": None, "temperature": 0, "ignore_eos": True})
    meta = answer["meta_info"]
    assert meta["prompt_tokens"] + meta["completion_tokens"] == engine.info.context_length


def test_penalties_bias_and_a_least_length_change_the_answer(engine):
    plain = engine.generate(PROMPTS[0], GREEDY)["output_ids"]
    biased = engine.generate(PROMPTS[0], GREEDY | {"logit_bias": {77: 100.0}})["output_ids"]
    assert biased == [77] * 12
    penalized = engine.generate(PROMPTS[0], GREEDY | {"frequency_penalty": 2.0})["output_ids"]
    assert len(set(penalized)) > len(set(plain))
    stop = {"stop_token_ids": [plain[0]], "max_new_tokens": 8}
    assert len(engine.generate(PROMPTS[0], GREEDY | stop)["output_ids"]) == 1
    longer = engine.generate(PROMPTS[0], GREEDY | stop | {"min_new_tokens": 5})["output_ids"]
    assert len(longer) >= 5


def test_logprobs_and_hidden_states_are_hugging_faces(model, engine):
    ids = engine.tokenizer.encode(PROMPTS[2])
    answer = engine.generate(
        input_ids=ids,
        sampling_params=GREEDY,
        return_logprob=True,
        logprob_start_len=0,
        top_logprobs_num=3,
        return_hidden_states=True,
    )
    tokens = [*ids, *answer["output_ids"]]
    with torch.inference_mode():
        expected = hf_reference(model)(torch.tensor([tokens]), output_hidden_states=True)
    logprobs = torch.log_softmax(expected.logits[0].float(), dim=-1)
    meta = answer["meta_info"]
    entries = meta["input_token_logprobs"] + meta["output_token_logprobs"]
    assert [token for _, token, _ in entries] == tokens
    assert entries[0] == (None, tokens[0], None)
    for place, (value, token, _) in enumerate(entries[1:]):
        assert value == pytest.approx(logprobs[place, token].item(), abs=1e-4)
    top = meta["input_top_logprobs"] + meta["output_top_logprobs"]
    assert top[0] is None
    for place, likeliest in enumerate(top[1:]):
        values, indices = logprobs[place].topk(3)
        assert [token for _, token, _ in likeliest] == indices.tolist()
        assert [value for value, *_ in likeliest] == pytest.approx(values.tolist(), abs=1e-4)
    prompt, *rest = meta["hidden_states"]
    assert prompt.shape == (len(ids), 64)
    rows = torch.cat([prompt, torch.stack(rest)])
    torch.testing.assert_close(rows, expected.hidden_states[-1][0, :-1], atol=1e-4, rtol=1e-4)


def test_embeddings_can_be_given_in_any_form(model, engine):
    ids = engine.tokenizer.encode(PROMPTS[2])
    rows = hf_reference(model).get_input_embeddings().weight[ids]
    expected = engine.generate(input_ids=ids, sampling_params=GREEDY)["output_ids"]
    given = [rows, rows.detach().numpy().astype("float64"), rows.tolist()]
    for one in given:
        answer = engine.generate(input_embeds=one, sampling_params=GREEDY)
        assert answer["output_ids"] == expected
        assert answer["meta_info"]["prompt_tokens"] == len(ids)
    answers = engine.generate(input_embeds=given, sampling_params=GREEDY | {"n": 2})
    assert [answer["output_ids"] for answer in answers] == [expected] * 6


class OnlyToken(CustomLogitProcessor):
    """Leaves the token that the request names, and then the next ones."""

    def __call__(self, logits, custom_param_list):
        for row, params in zip(logits, custom_param_list, strict=True):
            row.fill_(-torch.inf)
            row[params["token"]] = 0.0
            params["token"] += 1
        return logits


def test_custom_logit_processors_choose_for_those_that_ask(model):
    sampling = GREEDY | {"custom_params": {"token": 90}}
    with Engine(model_path=str(model), enable_custom_logit_processor=True, **ARGS) as engine:
        text = OnlyToken.to_str()
        free, chosen = engine.generate(
            PROMPTS[:2], [GREEDY, sampling], custom_logit_processor=[None, text]
        )
        assert chosen["output_ids"] == list(range(90, 102))
        assert free["output_ids"] == engine.generate(PROMPTS[0], GREEDY)["output_ids"]
        both = engine.generate(PROMPTS[1], sampling | {"n": 2}, custom_logit_processor=text)
        assert [answer["output_ids"] for answer in both] == [chosen["output_ids"]] * 2
        assert sampling["custom_params"] == {"token": 90}
        wrong = GREEDY | {"custom_params": {"tokens": 90}}
        with pytest.raises(ValueError, match="KeyError: 'token'"):
            engine.generate(PROMPTS[0], wrong, custom_logit_processor=text)


def test_details_are_for_the_prompts_that_ask(engine):
    scoring = {"max_new_tokens": 0}
    answers = engine.generate(
        PROMPTS, scoring, return_logprob=[True, False, True], logprob_start_len=[2, -1, 0]
    )
    meta = [answer["meta_info"] for answer in answers]
    assert [answer["text"] for answer in answers] == [""] * 3
    assert {each["completion_tokens"] for each in meta} == {0}
    first, last = (meta[index]["input_token_logprobs"] for index in (0, 2))
    assert len(first) == meta[0]["prompt_tokens"] - 3
    assert len(last) == meta[2]["prompt_tokens"]
    assert "input_token_logprobs" not in meta[1]
    assert not any("hidden_states" in each for each in meta)


def test_a_stream_has_all_logprobs_so_far(engine):
    arguments = {"return_logprob": True, "logprob_start_len": 0, "return_hidden_states": True}
    whole = engine.generate(PROMPTS[0], GREEDY, **arguments)["meta_info"]
    *earlier, last = engine.generate(PROMPTS[0], GREEDY, stream=True, **arguments)
    lengths = [len(event["meta_info"]["output_token_logprobs"]) for event in earlier]
    assert lengths == list(range(1, 12))
    assert not any("hidden_states" in event["meta_info"] for event in earlier)
    last = last["meta_info"]
    for name in ("input_token_logprobs", "output_token_logprobs"):
        values = [value for value, *_ in whole[name] if value is not None]
        assert [value for value, *_ in last[name] if value is not None] == pytest.approx(values)
    assert len(last["hidden_states"]) == len(whole["hidden_states"]) == 12


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "either prompt, input_ids or input_embeds"),
        ({"prompt": "a", "input_ids": [1]}, "either prompt, input_ids or input_embeds"),
        ({"input_embeds": []}, "no tokens"),
        ({"input_embeds": [[1.0, 2.0]]}, r"must be \[tokens, 64\] numbers, and not \[1, 2\]"),
        ({"input_embeds": [[1.0] * 64, [1.0]]}, "input_embeds: "),
        ({"input_embeds": [["x"] * 64]}, "input_embeds: "),
        ({"input_embeds": [[float("nan")] * 64]}, "row 0 has a number that is not finite"),
        ({"input_embeds": [[1.0] * 64], "return_logprob": True, "logprob_start_len": 0}, "no tok"),
        ({"prompt": "a", "custom_logit_processor": "x"}, "enable_custom_logit_processor=True"),
        ({"prompt": "a", "sampling_params": {"custom_params": {"a": 1}}}, "mean nothing without"),
        ({"prompt": "a", "sampling_params": {"custom_params": {"a": 2**70}}}, "sampling_params: "),
        ({"prompt": "a", "sampling_params": {"custom_params": {"a": object()}}}, "sampling_par"),
        ({"input_ids": []}, "no tokens"),
        ({"input_ids": [270]}, "outside the vocabulary of 270"),
        ({"input_ids": [5] * 256}, "256 tokens"),
        ({"prompt": ["a", "b"], "sampling_params": [{}]}, "1 entries for 2 prompts"),
        ({"prompt": "a", "sampling_params": {"top_p": 0}}, "top_p"),
        ({"prompt": "a", "sampling_params": {"top_k": 0}}, "top_k"),
        ({"prompt": "a", "sampling_params": {"temprature": 0}}, "temprature"),
        ({"prompt": "a", "sampling_params": {"presence_penalty": 3}}, "presence_penalty"),
        ({"prompt": "a", "sampling_params": {"min_new_tokens": 129}}, "at most 128 tokens"),
        (
            {"prompt": "a", "sampling_params": {"min_new_tokens": 300, "max_new_tokens": None}},
            "less than min_new_tokens",
        ),
        ({"prompt": "a", "sampling_params": {"logit_bias": {270: 1.0}}}, "outside the vocabulary"),
        ({"prompt": "a", "return_logprob": [True, True]}, "2 entries for 1 prompts"),
        ({"prompt": "a", "return_logprob": True, "logprob_start_len": 1}, "not 1"),
        ({"prompt": "a", "return_logprob": True, "top_logprobs_num": 200}, "not 200"),
    ],
)
def test_a_wrong_question_is_a_value_error(engine, arguments, message):
    with pytest.raises(ValueError, match=message):
        engine.generate(**arguments)


def test_a_request_that_the_engine_gives_up_is_an_error(engine, monkeypatch):
    def fails(step):
        raise RuntimeError("the device is on fire")

    monkeypatch.setattr(engine.scheduler, "_launch", fails)
    with pytest.raises(RuntimeError, match="on fire"):
        engine.generate("a", GREEDY)


def test_without_a_tokenizer_there_are_tokens_alone(model, engine):
    ids = engine.tokenizer.encode(PROMPTS[2])
    expected = engine.generate(input_ids=ids, sampling_params=GREEDY)["output_ids"]
    options = {"skip_tokenizer_init": True, "return_hidden_states": True}
    with Engine(model_path=str(model), **options, **ARGS) as tokens_only:
        answer = tokens_only.generate(input_ids=ids, sampling_params=GREEDY)
        assert "text" not in answer
        assert [len(rows.shape) for rows in answer["meta_info"]["hidden_states"]] == [2] + [1] * 11
        assert answer["output_ids"] == expected
        for wrong in ({"prompt": "a"}, {"input_ids": ids, "sampling_params": {"stop": "x"}}):
            with pytest.raises(ValueError, match="skip_tokenizer_init"):
                tokens_only.generate(**wrong)
    with pytest.raises(RuntimeError, match="shut down"):
        tokens_only.generate(input_ids=ids)


def test_it_needs_no_library_of_the_server(model):
    code = f"""
import sys
for name in ("fastapi", "starlette", "pydantic", "zmq", "uvicorn", "httpx", "orjson"):
    sys.modules[name] = None
import radixfleet
assert "torch" not in sys.modules
with radixfleet.Engine(model_path={str(model)!r}, **{ARGS!r}) as engine:
    print(engine.generate("the", {GREEDY!r})["meta_info"]["completion_tokens"])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout == "12\n", done.stderr
