"""The whole API with real models: as OpenAI's client and plain HTTP see it, through one worker and
through the router of a fleet of two.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from worker.embedded_models import EMBEDDED_MODELS

from ..serving import FLEET
from .clients import FRANCE, GREEDY, MODEL, PATIENCE_SECONDS, QUESTION, Clients, clients_of

# ===== chat completions and completions =====


def test_a_chat_whole_and_as_a_stream(clients: Clients) -> None:
    chat = clients.openai.chat.completions
    whole = chat.create(**GREEDY, messages=QUESTION, max_completion_tokens=10)
    assert "Paris" in (whole.choices[0].message.content or "")
    stream = chat.create(
        **GREEDY,
        messages=QUESTION,
        max_completion_tokens=10,
        stream=True,
        stream_options={"include_usage": True},
    )
    chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-2].choices[0].finish_reason == whole.choices[0].finish_reason
    assert whole.usage
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == whole.usage.completion_tokens
    # The second time the prompt was cached, but for its last token.
    details = chunks[-1].usage.prompt_tokens_details
    assert details
    assert details.cached_tokens == whole.usage.prompt_tokens - 1


def test_samples_differ_and_a_seed_repeats_them(clients: Clients) -> None:
    def texts(stream: bool) -> list[str]:
        options = {"n": 2, "seed": 11, "max_tokens": 8, "temperature": 1.2, "top_p": 0.95}
        options["extra_body"] = {"top_k": 40, "min_p": 0.01, "repetition_penalty": 1.1}
        made: Any = clients.openai.chat.completions.create(
            model=MODEL, messages=QUESTION, stream=stream, **options
        )
        if not stream:
            return [choice.message.content for choice in made.choices]
        found = ["", ""]
        for chunk in made:
            for choice in chunk.choices:
                found[choice.index] += choice.delta.content or ""
        return found

    whole = texts(stream=False)
    assert whole[0] != whole[1]
    assert texts(stream=True) == texts(stream=False) == whole


def test_nothing_of_a_stop_string_leaks(clients: Clients) -> None:
    options: dict[str, Any] = {**GREEDY, "prompt": "Count: 1, 2, 3,", "max_tokens": 14}
    text = clients.openai.completions.create(**options).choices[0].text
    assert " 6, 7" in text
    (choice,) = clients.openai.completions.create(**options, stop=["never", " 6, 7"]).choices
    assert (choice.text, choice.finish_reason) == (text.split(" 6, 7")[0], "stop")
    chunks = list(clients.openai.completions.create(**options, stop=" 6, 7", stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == choice.text


def test_log_probabilities_of_both_apis_agree(clients: Clients) -> None:
    prompt = clients.post("/v1/tokenize", prompt=FRANCE)["tokens"]
    native = clients.post(
        "/generate",
        text=FRANCE,
        sampling_params={"temperature": 0, "max_new_tokens": 4},
        return_logprob=True,
        top_logprobs_num=2,
        return_text_in_logprobs=True,
    )
    values, ids, texts = zip(*native["meta_info"]["output_token_logprobs"], strict=True)
    assert "".join(texts) == native["text"]
    create = clients.openai.completions.create
    (made,) = create(**GREEDY, prompt=FRANCE, max_tokens=4, logprobs=2).choices
    assert made.logprobs
    assert made.text == native["text"]
    assert made.logprobs.token_logprobs == pytest.approx(list(values), abs=1e-3)
    scored: Any = [*prompt, *ids]
    (echoed,) = create(**GREEDY, prompt=scored, max_tokens=0, echo=True, logprobs=2).choices
    assert echoed.logprobs
    assert echoed.text == FRANCE + made.text
    (nothing, *rest) = echoed.logprobs.token_logprobs or []
    assert nothing is None
    assert rest[-4:] == pytest.approx(list(values), abs=1e-3)
    chat = clients.openai.chat.completions.create(
        **GREEDY, messages=QUESTION, max_tokens=3, logprobs=True, top_logprobs=3
    )
    assert chat.choices[0].logprobs
    for token in chat.choices[0].logprobs.content or []:
        assert len(token.top_logprobs) == 3
        assert token.logprob == max(top.logprob for top in token.top_logprobs)


def test_biases_penalties_and_least_tokens_change_the_answer(clients: Clients) -> None:
    create = clients.openai.completions.create
    (token,) = clients.post("/v1/tokenize", prompt=" Rome")["tokens"]
    options: dict[str, Any] = {**GREEDY, "prompt": FRANCE, "max_tokens": 3}
    assert create(**options, logit_bias={str(token): 100}).choices[0].text == " Rome" * 3
    penalized = create(
        **options, logit_bias={str(token): 30}, frequency_penalty=2, presence_penalty=2
    )
    assert penalized.usage
    assert penalized.usage.completion_tokens == 3
    end = {"stop_token_ids": [token], "min_tokens": 2, "ignore_eos": True}
    ended = create(**options, logit_bias={str(token): 100}, extra_body=end)
    assert ended.usage
    assert ended.usage.completion_tokens == 3


def test_prompts_of_every_kind_and_the_best_of_several_answers(clients: Clients) -> None:
    create = clients.openai.completions.create
    ids = clients.post("/v1/tokenize", prompt=FRANCE)["tokens"]
    kinds: list[Any] = [FRANCE, [FRANCE, FRANCE], ids, [ids, ids]]
    texts = [
        {choice.text for choice in create(**GREEDY, prompt=prompt, max_tokens=3).choices}
        for prompt in kinds
    ]
    assert texts[0] == texts[1] == texts[2] == texts[3]
    best = create(model=MODEL, prompt=FRANCE, n=1, best_of=3, seed=1, max_tokens=4)
    assert len(best.choices) == 1
    assert best.usage
    assert best.usage.completion_tokens <= 12


# ===== what is kept: files, batches, responses, sessions =====


def test_a_batch_runs_to_its_end(clients: Clients) -> None:
    chat = {**GREEDY, "messages": QUESTION, "max_tokens": 6}
    bodies = [chat, {**chat, "temperature": -1}, chat, {**chat, "max_tokens": 2}]
    batch, results, errors = clients.batch("/v1/chat/completions", bodies)
    assert batch.status == "completed"
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (4, 3, 1)
    assert [line["custom_id"] for line in results] == ["line 0", "line 2", "line 3"]
    texts = [each["response"]["body"]["choices"][0]["message"]["content"] for each in results]
    assert texts[0] == texts[1]
    assert texts[0].startswith(texts[2])
    assert errors[0]["response"]["body"]["error"]["param"] == "temperature"
    assert batch.id in {each.id for each in clients.openai.batches.list(limit=5)}
    kept = {file.id for file in clients.openai.files.list()}
    assert {batch.input_file_id, batch.output_file_id, batch.error_file_id} <= kept
    assert clients.openai.files.delete(batch.output_file_id).deleted
    with pytest.raises(openai.NotFoundError):
        clients.openai.files.retrieve(batch.output_file_id)


def test_responses_are_a_conversation_that_is_kept(clients: Clients) -> None:
    responses = clients.openai.responses
    first = responses.create(
        **GREEDY, input="My name is Ada.", instructions="Be brief.", max_output_tokens=8
    )
    events = list(
        responses.create(
            **GREEDY,
            input="What is my name?",
            previous_response_id=first.id,
            max_output_tokens=8,
            stream=True,
        )
    )
    assert events[0].type == "response.created"
    deltas = "".join(event.delta for event in events if event.type == "response.output_text.delta")
    last: Any = events[-1]
    assert last.type in ("response.completed", "response.incomplete")
    assert last.response.output_text == deltas != ""
    for _ in range(3):  # whichever worker is asked
        assert responses.retrieve(last.response.id).output_text == deltas
    texts = [item.content[0].text for item in responses.input_items.list(last.response.id)]
    assert texts == ["What is my name?", first.output_text, "My name is Ada."]
    responses.delete(first.id)
    with pytest.raises(openai.NotFoundError):
        responses.retrieve(first.id)


def test_a_session_goes_on_where_it_was(clients: Clients) -> None:
    sampling = {"temperature": 0, "max_new_tokens": 2}
    session = clients.post("/open_session", capacity_of_str_len=1000)
    first = clients.post(
        "/generate", text=FRANCE, sampling_params=sampling, session_params={"id": session}
    )
    going_on = {"id": session, "rid": first["meta_info"]["id"]}
    second = clients.post(
        "/generate",
        text=" The capital of Italy is",
        sampling_params=sampling,
        session_params=going_on,
    )
    whole = clients.post(
        "/generate",
        text=FRANCE + first["text"] + " The capital of Italy is",
        sampling_params=sampling,
    )
    assert second["text"] == whole["text"]
    assert second["meta_info"]["prompt_tokens"] == whole["meta_info"]["prompt_tokens"]
    clients.post("/close_session", session_id=session)
    closed = clients.http.post("/generate", json={"text": "a", "session_params": {"id": session}})
    assert closed.status_code == 400


# ===== the rest =====


def test_texts_become_tokens_and_texts_again(clients: Clients) -> None:
    text = "Two words, 🙂 and naïve façades"
    tokens = clients.post("/v1/tokenize", prompt=text)
    assert tokens["count"] == len(tokens["tokens"])
    assert clients.post("/v1/detokenize", tokens=tokens["tokens"]) == {"text": text}
    chat = clients.post("/v1/tokenize", messages=QUESTION)
    made = clients.openai.chat.completions.create(**GREEDY, messages=QUESTION, max_tokens=1)
    assert made.usage
    assert chat["count"] == made.usage.prompt_tokens


def test_a_request_that_is_aborted_ends_with_what_there_is(clients: Clients) -> None:
    answers: list[dict[str, Any]] = []

    def generate() -> None:
        sampling = {"max_new_tokens": 4000, "ignore_eos": True}
        answers.append(
            clients.post("/generate", text="1, 2,", rid="mine", sampling_params=sampling)
        )

    running = threading.Thread(target=generate)
    running.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while clients.post("/abort_request", rid="mine")["aborted"] == 0:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.join(PATIENCE_SECONDS)
    (answer,) = answers
    assert answer["meta_info"]["finish_reason"]["type"] == "abort"
    assert answer["meta_info"]["completion_tokens"] < 4000


def test_models_and_the_state_of_the_server(clients: Clients) -> None:
    (model,) = clients.openai.models.list().data
    assert model.id == clients.openai.models.retrieve(model.id).id == MODEL
    with pytest.raises(openai.NotFoundError):
        clients.openai.models.retrieve("another")
    assert clients.http.get("/get_model_info").json()["is_generation"] is True
    assert clients.http.get("/get_server_info").json()["model_path"] == MODEL
    assert "load" in clients.http.get("/get_load").json()
    for path in ("/health", "/health_generate"):
        assert clients.http.get(path).status_code == 200
    clients.post("/generate", text="a", sampling_params={"max_new_tokens": 1})
    metrics = clients.http.get("/metrics").text
    samples = [line for line in metrics.splitlines() if line.startswith("sglang:prompt_tokens_")]
    assert len(samples) == (2 if clients.behind_router else 1)
    assert all(f'model_name="{MODEL}"' in sample for sample in samples)
    assert all(('worker="' in sample) == clients.behind_router for sample in samples)
    weight = {"name": "model.norm.weight", "truncate_size": 3}
    assert len(clients.post("/get_weights_by_name", **weight)) == 3
    assert clients.http.post("/flush_cache").status_code == 200


@pytest.mark.parametrize(
    ("path", "body", "status", "code"),
    [
        ("/v1/chat/completions", {"messages": []}, 400, "invalid_value"),
        ("/v1/chat/completions", {"messages": QUESTION, "nonsense": 1}, 400, "unknown_parameter"),
        ("/v1/completions", {"model": MODEL}, 400, "missing_required_parameter"),
        ("/generate", {"text": "word " * 9000}, 400, "context_length_exceeded"),
        ("/v1/embeddings", {"model": MODEL, "input": "a"}, 400, "unsupported_model"),
        ("/v1/responses", {"input": "a", "previous_response_id": "resp_0"}, 404, None),
        ("/v1/nowhere", {}, 404, "unknown_url"),
    ],
)
def test_errors_have_one_shape(
    clients: Clients, path: str, body: dict[str, Any], status: int, code: str | None
) -> None:
    answer = clients.http.post(path, json=body)
    assert answer.status_code == status, answer.text
    error = answer.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert code in (None, error["code"])
    without = clients.http.post(path, json=body, headers={"authorization": "Bearer wrong"})
    assert without.status_code == 401
    assert without.json()["error"]["code"] == "invalid_api_key"
    broken = clients.http.post(path, content=b'{"text": ')
    assert broken.status_code in (400, 404)


# ===== a model that embeds, behind the router =====


@pytest.fixture(scope="module")
def embeds(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Clients]:
    folder = tmp_path_factory.mktemp("storage")
    yield from clients_of(FLEET, folder, "--model-path", "all-minilm-l6-v2")


@pytest.mark.skipif(
    not EMBEDDED_MODELS["all-minilm-l6-v2"].is_pulled(),
    reason="the embedded model is not here: run 'radixfleet pull all-minilm-l6-v2'",
)
def test_embeddings_ranks_and_scores_through_the_router(embeds: Clients) -> None:
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "The car needs new brakes."]
    create = embeds.openai.embeddings.create
    vectors = [each.embedding for each in create(model="any", input=texts).data]  # base64
    plain = create(model="any", input=texts, encoding_format="float")
    for vector, each in zip(vectors, plain.data, strict=True):
        assert vector == pytest.approx(each.embedding, abs=1e-6)
    tokens = embeds.post("/v1/tokenize", prompt=texts)["tokens"]
    of_tokens = create(model="any", input=tokens).data
    assert of_tokens[1].embedding == pytest.approx(vectors[1], abs=1e-5)
    assert len(create(model="any", input=texts[0], dimensions=64).data[0].embedding) == 64
    (encoded,) = embeds.post("/encode", text=texts[:1])
    assert encoded["embedding"] == pytest.approx(vectors[0], abs=1e-5)
    ranked = embeds.post("/v1/rerank", query="What is a feline?", documents=texts)["results"]
    assert [each["index"] for each in ranked][-1] == 2
    scores = embeds.post("/v1/score", text_1=texts[0], text_2=texts[1:])["data"]
    assert scores[0]["score"] > 0.5 > scores[1]["score"]
    batch, results, _ = embeds.batch("/v1/embeddings", [{"model": "any", "input": texts[0]}])
    assert batch.status == "completed"
    found = results[0]["response"]["body"]["data"][0]["embedding"]
    assert found == pytest.approx(vectors[0], abs=1e-5)
    with pytest.raises(openai.BadRequestError) as error:
        embeds.openai.chat.completions.create(model="any", messages=QUESTION)
    assert error.value.code == "unsupported_model"
