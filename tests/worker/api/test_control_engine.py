"""Other weights, released memory and traces, over HTTP with the real engine on tiny checkpoints."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch
from safetensors.torch import load_file, save_file

from ..checkpoints import hf_reference, make_checkpoint, write_gguf
from ..tokenization.tiny_tokenizer import write_tiny_tokenizer
from .worker_process import WorkerProcess

OPTIONS = ["--device", "cpu", "--dtype", "float32", "--num-threads", "1", "--log-level", "warning"]
OPTIONS += ["--max-total-tokens", "2048", "--served-model-name", "tiny"]
SUCCESS = {"success": True, "message": "Succeeded to update model weights."}
PROMPT = list(range(3, 43))


def checkpoint(folder: Path, seed: int, family: str = "llama2", **changes: Any) -> Path:
    write_tiny_tokenizer(folder)
    changes = {"vocab_size": 300, "max_position_embeddings": 1024} | changes
    return make_checkpoint(folder, family, seed=seed, **changes)


@pytest.fixture(scope="module")
def a(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("weights") / "a", seed=1)


@pytest.fixture(scope="module")
def b(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return checkpoint(tmp_path_factory.mktemp("weights") / "b", seed=2)


@pytest.fixture(scope="module", params=[1, 2], ids=["one rank", "two ranks"])
def url(request, a: Path) -> Iterator[str]:
    ranks = ["--tp-size", str(request.param)]
    worker = WorkerProcess(
        ["-m", "worker.launch_server"], ["--model-path", str(a), *OPTIONS, *ranks]
    )
    try:
        yield worker.event("ready")["url"]
        worker.process.terminate()
        code, errors = worker.finish()
        assert code == 0, errors
        assert "Traceback" not in errors
    finally:
        worker.close()


@pytest.fixture
async def http(url: str, a: Path) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the worker, which serves `a` and has an empty cache."""
    async with httpx.AsyncClient(base_url=url, timeout=120, trust_env=False) as client:
        assert await update(client, a) == SUCCESS
        yield client


async def update(http: httpx.AsyncClient, path: Path, **options: Any) -> dict[str, Any]:
    body = {"model_path": str(path), **options}
    response = await http.post("/update_weights_from_disk", json=body)
    answer = response.json()
    assert answer.keys() == {"success", "message"}
    assert response.status_code == (200 if answer["success"] else 400)
    return answer


async def generate(http: httpx.AsyncClient, length: int = 16) -> dict[str, Any]:
    sampling = {"temperature": 0, "max_new_tokens": length, "ignore_eos": True}
    response = await http.post("/generate", json={"input_ids": PROMPT, "sampling_params": sampling})
    assert response.status_code == 200, response.text
    return response.json()


async def text(http: httpx.AsyncClient, length: int = 16) -> str:
    return (await generate(http, length))["text"]


def expected(path: Path, tokens: int = 16) -> str:
    """Hugging Face's greedy answer, of token texts that the tiny tokenizer has."""
    from worker.tokenization.tokenizer import load_tokenizer

    prompt = torch.tensor([PROMPT])
    generated = hf_reference(path).generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=tokens,
        min_new_tokens=tokens,
        eos_token_id=None,
        pad_token_id=0,
    )
    return load_tokenizer(path).decode_whole(generated[0, len(PROMPT) :].tolist(), True)


# ===== other weights =====


async def test_answers_are_those_of_the_new_weights_and_nothing_is_cached(
    http: httpx.AsyncClient, a: Path, b: Path
) -> None:
    assert await text(http) == expected(a)
    assert (await generate(http))["meta_info"]["cached_tokens"] == 39
    assert await update(http, b) == SUCCESS
    answer = await generate(http)
    assert answer["text"] == expected(b) != expected(a)
    assert answer["meta_info"]["cached_tokens"] == 0


async def test_the_worker_says_which_weights_it_serves(
    http: httpx.AsyncClient, a: Path, b: Path
) -> None:
    assert await update(http, b) == SUCCESS
    assert (await http.get("/get_model_info")).json() == {
        "model_path": str(b),
        "tokenizer_path": str(a),
        "is_generation": True,
    }
    assert (await http.get("/get_server_info")).json()["model_path"] == str(b)
    assert (await http.get("/v1/models")).json()["data"][0]["id"] == "tiny"


async def test_a_gguf_file_and_a_folder_follow_each_other(
    http: httpx.AsyncClient, a: Path, b: Path, tmp_path: Path
) -> None:
    assert await update(http, write_gguf(b, tmp_path / "b.gguf")) == SUCCESS
    assert await text(http) == expected(b)
    assert await update(http, a, load_format="safetensors") == SUCCESS
    assert await text(http) == expected(a)


async def test_what_is_not_there_has_the_documented_message(
    http: httpx.AsyncClient, a: Path
) -> None:
    assert await update(http, Path("meta-llama/Llama-3.2-1B-wrong")) == {
        "success": False,
        "message": "Failed to get weights iterator: meta-llama/Llama-3.2-1B-wrong "
        "(repository not found).",
    }
    assert await text(http) == expected(a)


def change(folder: Path, edit: Callable[[dict[str, torch.Tensor]], object]) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    edit(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


NORM = "model.norm.weight"
DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "missing tensor": (
        lambda folder: change(folder, lambda tensors: tensors.pop(NORM)),
        f"the checkpoint lacks {NORM}",
    ),
    "wrong shape": (
        lambda folder: change(folder, lambda tensors: tensors.update({NORM: torch.zeros(63)})),
        f"{NORM} has the shape [63]",
    ),
    "integers": (
        lambda folder: change(
            folder, lambda tensors: tensors.update({NORM: torch.zeros(64, dtype=torch.int32)})
        ),
        "does not hold floating-point numbers",
    ),
    "truncated file": (
        lambda folder: (folder / "model.safetensors").write_bytes(
            (folder / "model.safetensors").read_bytes()[:-9]
        ),
        "truncated or damaged safetensors file",
    ),
    "no weights": (
        lambda folder: (folder / "model.safetensors").unlink(),
        "no safetensors or GGUF weights",
    ),
    "no config": (lambda folder: (folder / "config.json").unlink(), "no config.json"),
}


@pytest.mark.parametrize("damage", DAMAGE)
async def test_weights_that_do_not_fit_leave_the_old_ones_and_the_cache(
    http: httpx.AsyncClient, a: Path, b: Path, tmp_path: Path, damage: str
) -> None:
    edit, reason = DAMAGE[damage]
    broken = Path(shutil.copytree(b, tmp_path / "broken"))
    edit(broken)
    before = await text(http)
    answer = await update(http, broken)
    assert answer["success"] is False
    assert answer["message"].startswith("Failed to update weights: ")
    assert reason in answer["message"]
    after = await generate(http)
    assert after["text"] == before == expected(a)
    assert after["meta_info"]["cached_tokens"] == 39
    assert (await http.get("/get_model_info")).json()["model_path"] == str(a)


async def test_another_model_is_refused_by_the_first_difference(
    http: httpx.AsyncClient, a: Path, tmp_path: Path
) -> None:
    other = checkpoint(tmp_path, seed=3, num_hidden_layers=2)
    answer = await update(http, other)
    assert "num_layers is 2, and 3 of the model that is served" in answer["message"]
    assert await text(http) == expected(a)


async def test_a_running_stream_ends_with_the_old_weights(
    http: httpx.AsyncClient, a: Path, b: Path
) -> None:
    whole = await text(http, 100)
    sampling = {"temperature": 0, "max_new_tokens": 100, "ignore_eos": True}
    body = {"input_ids": PROMPT, "sampling_params": sampling, "stream": True}
    async with http.stream("POST", "/generate", json=body) as stream:
        lines = stream.aiter_lines()
        assert (await anext(lines)).startswith("data: {")  # it runs
        updating = asyncio.ensure_future(update(http, b))
        events = [json.loads(line[6:]) async for line in lines if line.startswith("data: {")]
    assert events[-1]["text"] == whole
    assert await updating == SUCCESS
    assert await text(http) == expected(b)


async def test_no_answer_is_made_with_both_weights(
    http: httpx.AsyncClient, a: Path, b: Path
) -> None:
    """Requests keep coming while weights change, and find the prefixes of others in the cache."""
    found: list[str] = []
    changed = asyncio.Event()

    async def keep_asking(number: int) -> None:
        await asyncio.sleep(number / 100)
        while not changed.is_set():
            found.append(await text(http))

    asking = [asyncio.ensure_future(keep_asking(number)) for number in range(6)]
    for path in (b, a, b, a, b):
        assert await update(http, path) == SUCCESS
        assert await text(http) == expected(path)
    changed.set()
    await asyncio.gather(*asking)
    assert found
    assert set(found) <= {expected(a), expected(b)}


async def test_running_requests_are_aborted_as_asked(http: httpx.AsyncClient, b: Path) -> None:
    sampling = {"temperature": 0, "max_new_tokens": 900, "ignore_eos": True}
    body = {"input_ids": PROMPT, "sampling_params": sampling, "stream": True}
    async with http.stream("POST", "/generate", json=body) as stream:
        lines = stream.aiter_lines()
        assert (await anext(lines)).startswith("data: {")
        assert await update(http, b, abort_all_requests=True) == SUCCESS
        events = [json.loads(line[6:]) async for line in lines if line.startswith("data: {")]
    assert events[-1]["meta_info"]["finish_reason"]["type"] == "abort"
    assert events[-1]["meta_info"]["completion_tokens"] < 900
    assert await text(http) == expected(b)


async def test_wrong_bodies_are_refused(http: httpx.AsyncClient) -> None:
    for body in ({}, {"model_path": ""}, {"model_path": "x", "load_format": "pt"}):
        response = await http.post("/update_weights_from_disk", json=body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] in ("model_path", "load_format")


# ===== reading weights =====


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_weights_are_those_of_the_checkpoint(
    http: httpx.AsyncClient, a: Path, method: str
) -> None:
    for name, weight in load_file(a / "model.safetensors").items():
        body = {"name": name, "truncate_size": 65}
        response = await http.request(method, "/get_weights_by_name", json=body)
        assert torch.equal(torch.tensor(response.json()), weight[:65]), name
    response = await http.post("/get_weights_by_name", json={"name": "lm_head.weight"})
    assert len(response.json()) == 100


async def test_unknown_weights_are_refused(http: httpx.AsyncClient) -> None:
    for body in ({"name": "no.such"}, {"name": NORM, "truncate_size": 0}, {}):
        response = await http.post("/get_weights_by_name", json=body)
        assert response.status_code == 400
        assert response.json()["error"]["param"] in ("name", "truncate_size")


# ===== memory =====


async def test_released_memory_comes_back_with_the_same_answers(
    http: httpx.AsyncClient, a: Path
) -> None:
    before = await text(http)
    for path, status in (("release", 200), ("release", 400)):
        response = await http.post(f"/{path}_memory_occupation")
        assert response.status_code == status, response.text
    body = {"input_ids": PROMPT, "sampling_params": {"max_new_tokens": 1}}
    refused = await http.post("/generate", json=body)
    assert refused.status_code == 503
    assert refused.json()["error"]["message"].startswith("The worker has released its memory")
    assert (await http.get("/health")).status_code == 200
    assert (await http.get("/health_generate")).status_code == 503
    assert (await update(http, a))["message"] == "The memory is released: resume it first"
    assert (await http.post("/get_weights_by_name", json={"name": NORM})).status_code == 400
    for path, status in (("resume", 200), ("resume", 400)):
        response = await http.post(f"/{path}_memory_occupation")
        assert response.status_code == status, response.text
    after = await generate(http)
    assert after["text"] == before == expected(a)
    assert after["meta_info"]["cached_tokens"] == 0


async def test_memory_is_released_when_the_requests_before_have_ended(
    http: httpx.AsyncClient,
) -> None:
    whole = await text(http, 100)
    sampling = {"temperature": 0, "max_new_tokens": 100, "ignore_eos": True}
    body = {"input_ids": PROMPT, "sampling_params": sampling, "stream": True}
    async with http.stream("POST", "/generate", json=body) as stream:
        lines = stream.aiter_lines()
        assert (await anext(lines)).startswith("data: {")
        releasing = asyncio.ensure_future(http.post("/release_memory_occupation"))
        events = [json.loads(line[6:]) async for line in lines if line.startswith("data: {")]
    assert events[-1]["text"] == whole
    assert (await releasing).status_code == 200
    assert (await http.post("/resume_memory_occupation")).status_code == 200


# ===== traces =====


def events_of(file: str) -> list[dict[str, Any]]:
    with gzip.open(file) as trace:
        return json.load(trace)["traceEvents"]


async def test_a_trace_has_what_the_engine_did_and_each_rank_has_one(
    http: httpx.AsyncClient, url: str, tmp_path: Path
) -> None:
    body = {"output_dir": str(tmp_path / "traces")}
    assert (await http.post("/start_profile", json=body)).status_code == 200
    assert (await http.post("/start_profile", json=body)).status_code == 400
    await text(http, 4)
    answer = (await http.post("/stop_profile")).json()
    assert sorted(map(str, (tmp_path / "traces").iterdir())) == sorted(answer["files"])
    for file in answer["files"]:
        name = Path(file).name
        assert re.fullmatch(r"\d+\.\d{3}-\d+-TP-[01]\.trace\.json\.gz", name), name
        assert any("linear" in event.get("name", "") for event in events_of(file))
    assert (await http.post("/stop_profile")).status_code == 400


async def test_a_trace_ends_by_itself_after_its_steps(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    body = {"output_dir": str(tmp_path), "num_steps": 2, "with_stack": True}
    assert (await http.post("/start_profile", json=body)).status_code == 200
    await text(http, 8)
    traces = list(tmp_path.iterdir())
    norms = [event for event in events_of(str(traces[0])) if event.get("name") == "aten::rms_norm"]
    assert len(norms) == 2 * 7  # of three layers and the end
    answer = (await http.post("/stop_profile")).json()
    assert sorted(answer["files"]) == sorted(map(str, traces))


async def test_profiles_that_cannot_be_made_are_refused(
    http: httpx.AsyncClient, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for body, reason in (
        ({"activities": ["GPU"]}, "runs on a CPU"),
        ({"output_dir": str(tmp_path / "file")}, "cannot be written"),
        ({"num_steps": 0}, "num_steps"),
    ):
        response = await http.post("/start_profile", json=body)
        assert response.status_code == 400
        assert reason in response.json()["error"]["message"]
    assert (await http.get("/stop_profile")).status_code == 400
