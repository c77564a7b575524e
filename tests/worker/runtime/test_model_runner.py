"""Every family gives Hugging Face's logits through the paged cache, in steps of any cut."""

import numpy as np
import pytest
import torch

from worker.runtime.device import DeviceError
from worker.runtime.kv_pool import OutOfMemory, pool_tokens
from worker.runtime.model_runner import ModelRunner
from worker.scheduler.step import Step, sequence_of, step_input

from ..checkpoints import FAMILIES, hf_logits, hf_reference, make_checkpoint
from ..triton_interpreter import interpret_kernels
from .texts import Texts

CPU = torch.device("cpu")


@pytest.fixture(
    scope="module",
    params=[(name, kind) for name in FAMILIES for kind in ("torch_native", "triton")],
)
def family(request, tmp_path_factory):
    name, backend = request.param
    if backend == "triton":
        interpret_kernels()
    folder = make_checkpoint(tmp_path_factory.mktemp(name), name)
    runner = ModelRunner(
        folder,
        dtype="float32",
        device="cpu",
        num_threads=1,
        max_total_tokens=512,
        backend=backend,
    )
    return runner, hf_reference(folder)


def expected(reference, texts: Texts, spans: list[tuple[int, int, int]]) -> torch.Tensor:
    full = [hf_logits(reference, request.text.tolist()) for request in texts.requests]
    return torch.cat([full[i][start:end] for i, start, end in spans])


def check(family, texts: Texts, spans: list[tuple[int, int, int]]) -> None:
    torch.testing.assert_close(
        texts.compute(spans), expected(family[1], texts, spans), atol=1e-4, rtol=0
    )


def test_a_whole_prompt(family):
    check(family, Texts.random(family[0], [50]), [(0, 0, 50)])


def test_chunks_of_a_prompt_then_one_token_at_a_time(family):
    texts = Texts.random(family[0], [40], page_size=4)
    for start, end in [(0, 7), (7, 8), (8, 31), (31, 32), (32, 33), (33, 40)]:
        check(family, texts, [(0, start, end)])


def test_several_sequences_in_one_step(family):
    texts = Texts.random(family[0], [30, 9, 44])
    check(family, texts, [(0, 0, 30), (1, 0, 4), (2, 0, 20)])
    check(family, texts, [(1, 4, 9), (2, 20, 44)])


def test_decoding_several_sequences_of_different_lengths(family):
    runner, reference = family
    texts = Texts.random(runner, [60, 3, 25])
    texts.compute([(0, 0, 59), (1, 0, 2), (2, 0, 24)])
    for request in texts.requests:
        assert texts.cache.grow(sequence_of(request), request.length)
        runner.next_tokens[sequence_of(request).row] = int(request.text[-1])
    logits = runner.logits(step_input(Step(texts.requests, []), texts.cache))
    ends = [(i, request.length - 1, request.length) for i, request in enumerate(texts.requests)]
    torch.testing.assert_close(logits, expected(reference, texts, ends), atol=1e-4, rtol=0)


@pytest.mark.parametrize("page_size", [1, 64])
def test_the_example_of_a_shared_prefix_launches_its_kernels_within_the_context(
    page_size, tmp_path, monkeypatch
):
    interpret_kernels()
    from worker.attention import triton
    from worker.kernels.prefix_attention import prefix_attention

    positions = []

    def observed(*args, **options):
        positions.append(options["positions"])
        prefix_attention(*args, **options)

    monkeypatch.setattr(triton, "_LAUNCH_BYTES", 0)  # so short a context pays
    monkeypatch.setattr(triton, "prefix_attention", observed)
    runner = ModelRunner(
        make_checkpoint(tmp_path, "llama3"),
        dtype="float32",
        device="cpu",
        num_threads=1,
        max_total_tokens=512,
        context_length=100,
        backend="triton",
    )
    columns = -(-runner.context_length // page_size) * page_size
    runner.set_page_table(np.full((2, columns), runner.total_tokens, dtype=np.int32))
    step = runner._spare_prompts(1, 16, runner._example_tokens - 1)
    assert len(runner.launch(step).wait().tokens) == 1
    assert len(positions) == runner.config.num_layers
    assert positions[0].tolist() == [99] * 16


def test_the_pool_takes_its_share_of_memory_in_whole_pages():
    sizes = {"free_bytes": 10_000, "weights_bytes": 4_000, "bytes_per_token": 7, "device": CPU}
    sizes |= {"mem_fraction_static": 0.9, "max_total_tokens": None, "page_size": 1}
    assert pool_tokens(**sizes) == 714
    assert pool_tokens(**sizes, table_bytes=700) == 614
    assert pool_tokens(**sizes | {"page_size": 16}) == 704
    assert pool_tokens(**sizes | {"max_total_tokens": 99}) == 99
    with pytest.raises(OutOfMemory, match="mem-fraction-static"):
        pool_tokens(**sizes | {"mem_fraction_static": 0.4})


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(tmp_path):
    folder = make_checkpoint(tmp_path, "llama2")
    with pytest.raises(DeviceError, match="--device cpu"):
        ModelRunner(folder, device="cuda")
