"""Vectors and scores over HTTP with the real engine behind it, beside Hugging Face's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import math
import random
import shlex
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import httpx
import numpy as np
import openai
import pytest
import torch
import torch.nn.functional as F

from router_py.greeting import greeting
from router_py.server_options import parse
from worker.embedded_models import EMBEDDED_MODELS
from worker.tokenization.tokenizer import load_tokenizer

from ..checkpoints import hf_logits, hf_reference, make_checkpoint
from ..tokenization.tiny_tokenizer import write_tiny_tokenizer
from ..tokenization.wordpiece_tokenizer import write_wordpiece_tokenizer
from .test_with_engine import idle_state
from .worker_process import WorkerProcess

TEXTS = ["the cat sat", "the dog!", "a", "the car, the car and the dogs sitting in the car."]


@contextmanager
def served(model: Path, *arguments: str) -> Iterator[str]:
    """The URL of a worker that computes `model` in float32."""
    options = ["--model-path", str(model), "--dtype", "float32", "--num-threads", "1"]
    program = ["-m", "worker.launch_server"]
    with closing(WorkerProcess(program, [*options, *arguments])) as worker:
        yield worker.event("ready")["url"]


def post(url: str, path: str, **body: object) -> dict:
    response = httpx.post(f"{url}{path}", json=body, timeout=60, trust_env=False)
    assert response.status_code == 200, response.text
    return response.json()


def embeddings(url: str, texts: list[str], **arguments: int) -> torch.Tensor:
    """As the `openai` client gets them, [texts, size]."""
    client = openai.OpenAI(base_url=f"{url}/v1", api_key="none", max_retries=0)
    answer = client.embeddings.create(model="any", input=texts, **arguments)
    return torch.tensor([each.embedding for each in answer.data])


def mean_embeddings(folder: Path, texts: list[str]) -> torch.Tensor:
    """Hugging Face's hidden states, their mean of length 1, [texts, size]."""
    model = hf_reference(folder, head="embed")
    tokenizer = load_tokenizer(folder)
    vectors = []
    for text in texts:
        with torch.inference_mode():
            states = model(torch.tensor([tokenizer.encode(text)])).last_hidden_state[0]
        vectors.append(F.normalize(states.mean(0), dim=0))
    return torch.stack(vectors)


@pytest.fixture(scope="module")
def bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An embedding model: without files that say so, its vectors are normalized means."""
    folder = make_checkpoint(tmp_path_factory.mktemp("bert"), "bert", head="embed")
    return write_wordpiece_tokenizer(folder)


@pytest.fixture(scope="module")
def bert_url(bert: Path) -> Iterator[str]:
    with served(bert) as url:
        yield url


def test_vectors_are_those_of_hugging_face(bert: Path, bert_url: str) -> None:
    expected = mean_embeddings(bert, TEXTS)
    torch.testing.assert_close(embeddings(bert_url, TEXTS), expected, atol=1e-5, rtol=1e-5)
    answers = [post(bert_url, "/encode", text=text)["embedding"] for text in TEXTS]
    torch.testing.assert_close(torch.tensor(answers), expected, atol=1e-5, rtol=1e-5)
    cut = F.normalize(expected[:, :7], dim=1)
    torch.testing.assert_close(embeddings(bert_url, TEXTS, dimensions=7), cut, atol=1e-5, rtol=1e-5)


def test_documents_are_ranked_by_the_cosine(bert: Path, bert_url: str) -> None:
    points = mean_embeddings(bert, TEXTS)
    expected = points[1:] @ points[0]
    results = post(bert_url, "/v1/rerank", query=TEXTS[0], documents=TEXTS[1:])["results"]
    assert [each["index"] for each in results] == expected.argsort(descending=True).tolist()
    scores = [each["relevance_score"] for each in results]
    assert scores == pytest.approx(expected.sort(descending=True).values.tolist(), abs=1e-5)


def test_a_full_call_and_the_longest_text(bert_url: str) -> None:
    assert embeddings(bert_url, TEXTS * 512).shape == (2048, 64)
    longest = {"input_ids": [5] * 256}
    assert post(bert_url, "/encode", **longest)["meta_info"]["prompt_tokens"] == 256
    response = httpx.post(f"{bert_url}/encode", json={"input_ids": [5] * 257}, trust_env=False)
    assert response.json()["error"]["code"] == "context_length_exceeded"
    for path in ("/health", "/health_generate", "/get_server_info", "/get_model_info"):
        assert httpx.get(f"{bert_url}{path}", timeout=60, trust_env=False).status_code == 200


def test_the_greeting_of_a_fleet_works_as_it_is_printed(
    bert_url: str, capsys: pytest.CaptureFixture[str]
) -> None:
    text = greeting(parse(["--model-path", "bert"]), bert_url, 1.0, embeds=True)
    before, program = text.split("With Python:")
    curl = shlex.split(before.split("With curl:")[1])
    url, content = curl[1], curl[-1]
    answer = httpx.post(url, content=content, timeout=60, trust_env=False).json()
    exec(program, {})
    printed = json.loads(capsys.readouterr().out)
    assert printed == pytest.approx(answer["data"][0]["embedding"], rel=1e-6)


async def test_nothing_is_held_for_clients_that_left(bert_url: str) -> None:
    chance = random.Random(4)
    async with httpx.AsyncClient(base_url=bert_url, timeout=60, trust_env=False) as http:

        async def leave_early() -> None:
            texts = [chance.choice(TEXTS) for _ in range(chance.randrange(1, 300))]
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(chance.uniform(0.01, 0.5)):
                    await http.post("/v1/embeddings", json={"input": texts})

        await asyncio.gather(*(leave_early() for _ in range(30)))
        state = await idle_state(http)
        assert (await http.get("/get_load")).json() == {"load": 0}
    assert state["held_tokens"] == state["used_tokens"] == 0
    assert state["free_tokens"] == state["total_tokens"]
    assert embeddings(bert_url, TEXTS).shape == (4, 64)


def test_a_cross_encoder_scores_pairs_with_their_types(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "bert", head="classify", num_labels=1)
    write_wordpiece_tokenizer(folder)
    model = hf_reference(folder, head="classify")
    pairs = load_tokenizer(folder).encode_inputs([(TEXTS[0], text) for text in TEXTS[1:]])
    with torch.inference_mode():
        logits = [
            model(
                torch.tensor([pair.input_ids]), token_type_ids=torch.tensor([pair.token_type_ids])
            ).logits.item()
            for pair in pairs
        ]
    expected = [1 / (1 + math.exp(-logit)) for logit in logits]
    with served(folder) as url:
        data = post(url, "/v1/score", text_1=TEXTS[0], text_2=TEXTS[1:])["data"]
        raw = post(url, "/classify", input_ids=pairs[0].input_ids)["embedding"]
    assert [each["score"] for each in data] == pytest.approx(expected, abs=1e-5)
    with torch.inference_mode():
        alone = model(torch.tensor([pairs[0].input_ids])).logits[0].tolist()
    assert raw == pytest.approx(alone, abs=1e-4)
    assert len(set(map(round, (1e6 * value for value in expected)))) == 3


def test_a_generating_model_embeds_where_asked(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama3", vocab_size=300)
    write_tiny_tokenizer(folder)
    expected = []
    for text in TEXTS:
        ids = load_tokenizer(folder).encode(text)
        with torch.inference_mode():
            states = hf_reference(folder, head="embed")(torch.tensor([ids])).last_hidden_state[0]
        expected.append(F.normalize(states[-1], dim=0))
    with served(folder, "--is-embedding", "--max-total-tokens", "512") as url:
        found = embeddings(url, TEXTS)
        again = post(url, "/encode", text=TEXTS[3])
        chat = httpx.post(f"{url}/v1/chat/completions", json={}, trust_env=False)
    torch.testing.assert_close(found, torch.stack(expected), atol=1e-5, rtol=1e-5)
    assert again["meta_info"]["cached_tokens"] == again["meta_info"]["prompt_tokens"] - 1
    assert torch.tensor(again["embedding"]) @ expected[3] > 0.9999
    assert chat.json()["error"]["code"] == "unsupported_model"


def test_a_reward_model_scores_conversations(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama3", head="classify", num_labels=1, vocab_size=300)
    tokenizer = load_tokenizer(write_tiny_tokenizer(folder))
    model = hf_reference(folder, head="classify")

    def reward(text: str) -> float:
        with torch.inference_mode():
            return model(torch.tensor([tokenizer.encode(text)])).logits.item()

    with served(folder, "--is-embedding", "--max-total-tokens", "512") as url:
        answers = [post(url, "/classify", model="any", text=text) for text in TEXTS]
        (score,) = post(url, "/v1/score", text_1="the cat", text_2=" sat")["data"]
    for text, answer in zip(TEXTS, answers, strict=True):
        assert answer["embedding"] == pytest.approx([reward(text)], abs=1e-4)
    assert score["score"] == pytest.approx(1 / (1 + math.exp(-reward("the cat sat"))), abs=1e-5)


def test_labels_are_scored_as_the_next_token(tmp_path: Path) -> None:
    folder = make_checkpoint(tmp_path, "llama3", vocab_size=300)
    write_tiny_tokenizer(folder)
    model = hf_reference(folder)
    prompts = [[*range(40, 80), *item] for item in ([5], [6, 7], [80, 81, 82])]
    labels = [7, 299, 40]
    expected = torch.stack([hf_logits(model, prompt)[-1] for prompt in prompts])
    probabilities = expected.softmax(dim=1)[:, labels]
    body = {"query": prompts[0][:40], "items": [p[40:] for p in prompts], "label_token_ids": labels}
    with served(folder, "--max-total-tokens", "512") as url:
        scores = post(url, "/v1/score", **body)["scores"]
        shares = post(url, "/v1/score", **body, apply_softmax=True)["scores"]
        load = httpx.get(f"{url}/get_load", trust_env=False).json()
    np.testing.assert_allclose(scores, probabilities, rtol=1e-3, atol=1e-7)
    np.testing.assert_allclose(shares, expected[:, labels].softmax(dim=1), rtol=1e-3)
    assert load == {"load": 0}


@pytest.mark.skipif(
    not EMBEDDED_MODELS["all-minilm-l6-v2"].is_pulled(),
    reason="the embedded model is not here: run 'radixfleet pull all-minilm-l6-v2'",
)
def test_the_real_model_knows_what_is_alike() -> None:
    folder = EMBEDDED_MODELS["all-minilm-l6-v2"].path
    texts = ["A cat sits on the mat.", "A kitten rests on a rug.", "The car needs new brakes."]
    texts.append("Rechnungen über 12,50 € sind naïve façades 🙂")
    with served(Path("all-minilm-l6-v2")) as url:
        found = embeddings(url, texts)
        info = httpx.get(f"{url}/get_server_info", trust_env=False).json()["engine"]
        ranked = post(url, "/v1/rerank", query="What is a feline?", documents=texts[1:3])
    torch.testing.assert_close(found, mean_embeddings(folder, texts), atol=1e-5, rtol=1e-4)
    similar, unlike = (float(found[0] @ found[other]) for other in (1, 2))
    assert similar > 0.5 > 0.2 > unlike
    assert [each["index"] for each in ranked["results"]] == [0, 1]
    assert info["context_length"] == 256
    assert (info["embedding"]["size"], info["embedding"]["normalized"]) == (384, True)
