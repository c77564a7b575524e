"""Every family gives Hugging Face's logits through the paged cache, in steps of any cut."""

import pytest
import torch

from worker.cache.kv_cache import KVCache, Sequence
from worker.messages import SamplingParams
from worker.runtime.device import DeviceError
from worker.runtime.kv_pool import OutOfMemory, pool_tokens
from worker.runtime.model_runner import ModelRunner
from worker.scheduler.request import Request
from worker.scheduler.step import PrefillChunk, Step, sequence_of, step_input

from ..checkpoints import FAMILIES, VOCAB_SIZE, hf_logits, hf_reference, make_checkpoint
from ..triton_interpreter import allow_loop_bounds

CPU = torch.device("cpu")


def request_for(tokens: list[int], arrival: int = 0) -> Request:
    """A request for one token after `tokens`."""
    return Request.create(
        f"r{arrival}",
        tokens,
        SamplingParams(max_new_tokens=1),
        eos_token_ids=(),
        arrival=arrival,
        seed=0,
        stream_interval=1,
    )


class Texts:
    """Sequences with known tokens in a small paged cache, computed piece by piece."""

    def __init__(self, runner: ModelRunner, lengths: list[int], page_size: int = 1) -> None:
        self.runner = runner
        self.cache = KVCache(runner.total_tokens, len(lengths), 128, page_size=page_size)
        runner.set_page_table(self.cache.table)
        generator = torch.Generator().manual_seed(len(lengths))
        self.requests = []
        for i, length in enumerate(lengths):
            tokens = torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist()
            request = request_for(tokens, i)
            request.sequence = self.cache.begin(self.cache.match(request.text))
            self.requests.append(request)

    def compute(self, spans: list[tuple[int, int, int]]) -> torch.Tensor:
        """Logits of tokens [start, end) of request `i`, for each (i, start, end) of `spans`."""
        chunks = []
        for i, start, end in spans:
            sequence: Sequence = sequence_of(self.requests[i])
            assert self.cache.grow(sequence, end)
            chunks.append(PrefillChunk(self.requests[i], start, end))
        logits = self.runner.logits(step_input(Step([], chunks), self.cache))
        for i, _, end in spans:
            sequence_of(self.requests[i]).computed = end
        return logits


@pytest.fixture(
    scope="module",
    params=[(name, kind) for name in FAMILIES for kind in ("torch_native", "triton")],
)
def family(request, tmp_path_factory):
    name, backend = request.param
    if backend == "triton":
        if torch.cuda.is_available():
            pytest.skip("Triton has no interpreter where it has a GPU")
        allow_loop_bounds()
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
    check(family, Texts(family[0], [50]), [(0, 0, 50)])


def test_chunks_of_a_prompt_then_one_token_at_a_time(family):
    texts = Texts(family[0], [40], page_size=4)
    for start, end in [(0, 7), (7, 8), (8, 31), (31, 32), (32, 33), (33, 40)]:
        check(family, texts, [(0, start, end)])


def test_several_sequences_in_one_step(family):
    texts = Texts(family[0], [30, 9, 44])
    check(family, texts, [(0, 0, 30), (1, 0, 4), (2, 0, 20)])
    check(family, texts, [(1, 4, 9), (2, 20, 44)])


def test_decoding_several_sequences_of_different_lengths(family):
    runner, reference = family
    texts = Texts(runner, [60, 3, 25])
    texts.compute([(0, 0, 59), (1, 0, 2), (2, 0, 24)])
    for request in texts.requests:
        assert texts.cache.grow(sequence_of(request), request.length)
        runner.next_tokens[sequence_of(request).row] = int(request.text[-1])
    logits = runner.logits(step_input(Step(texts.requests, []), texts.cache))
    ends = [(i, request.length - 1, request.length) for i, request in enumerate(texts.requests)]
    torch.testing.assert_close(logits, expected(reference, texts, ends), atol=1e-4, rtol=0)


def test_the_pool_takes_its_share_of_memory_in_whole_pages():
    sizes = {"free_bytes": 10_000, "weights_bytes": 4_000, "bytes_per_token": 7, "device": CPU}
    assert pool_tokens(**sizes, mem_fraction_static=0.9, max_total_tokens=None, page_size=1) == 714
    assert pool_tokens(**sizes, mem_fraction_static=0.9, max_total_tokens=None, page_size=16) == 704
    assert pool_tokens(**sizes, mem_fraction_static=0.9, max_total_tokens=99, page_size=1) == 99
    with pytest.raises(OutOfMemory, match="mem-fraction-static"):
        pool_tokens(**sizes, mem_fraction_static=0.4, max_total_tokens=None, page_size=1)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_device_that_is_not_there_is_refused(tmp_path):
    folder = make_checkpoint(tmp_path, "llama2")
    with pytest.raises(DeviceError, match="--device cpu"):
        ModelRunner(folder, device="cuda")
