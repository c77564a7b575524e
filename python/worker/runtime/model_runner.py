"""The model on its device: loads it, sizes its KV pool, and computes one step at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ..attention.base import AttentionBackend, forward_context
from ..attention.batch import ForwardBatch
from ..attention.bidirectional import Bidirectional
from ..attention.registry import attention_backend, default_backend
from ..distributed.tensor_parallel import SINGLE, TensorParallel
from ..models.config import ModelConfig, load_model_config
from ..models.registry import build_model
from ..sampling.logprobs import Logprobs, Scoring, score, slice_rows
from ..sampling.processing import Processing
from ..sampling.sampler import sample, warm_up
from ..sampling.table import SamplingTable
from ..sampling.upload import upload
from .batches import BatchBuilder, Uploader
from .cuda_graphs import MOST_FORCED_TOKENS, DecodeGraphs
from .device import (
    check_fp8,
    choose_device,
    choose_dtype,
    choose_kv_dtype,
    free_memory,
    set_threads,
)
from .kv_pool import KVPool, OutOfMemory, pool_tokens
from .step_input import StepInput
from .step_result import DeviceResult, PendingResult
from .weights import Checkpoint, load_weights, replace_weights
from .weights.read import read_weight

Progress = Callable[[str, float], None]

# A page table's entries are numbered with 32 bits.
PAGE_TABLE_LIMIT = 2**31
# Up to so many tokens, reading weights bounds a step, and fused kernels read them faster.
# FP8 weights are multiplied with unquantized tokens, which is faster for one alone. Libraries are
# left what is float32, for comparisons.
_FEW_TOKENS, _FEW_TOKENS_FP8 = 8, 1
# With sequences of so many tokens, if the context allows, steps that share prefixes are prepared:
# so many prompts, or any number of decodes.
_EXAMPLE_TOKENS = 8192
_EXAMPLE_PROMPTS = 16
# Without a cache, so many tokens may be on their way: in steps that are computed or planned.
_TOKENS_ON_THEIR_WAY = 1 << 16


class ModelRunner:
    """Owns weights and KV pool; `total_tokens` is the pool's size.

    `max_sequences` is how many sequences the page table will hold, within PAGE_TABLE_LIMIT: a GPU
    keeps memory for it. With `parallel`, this is one rank's runner: all ranks compute the same
    steps. `config` None is read from `model_path`.

    A model whose attention is not causal keeps nothing; its `total_tokens` are how many tokens may
    be on their way at once.
    """

    def __init__(
        self,
        model_path: Path,
        *,
        config: ModelConfig | None = None,
        load_format: str = "auto",
        dtype: str = "auto",
        quantization: str | None = None,
        kv_cache_dtype: str = "auto",
        device: torch.device | str = "auto",
        parallel: TensorParallel = SINGLE,
        num_threads: int | None = None,
        context_length: int | None = None,
        mem_fraction_static: float = 0.9,
        max_total_tokens: int | None = None,
        page_size: int = 1,
        max_sequences: int = 0,
        backend: str | None = None,
        fused_decode: bool = True,
        seed: int = 0,
        progress: Progress = lambda stage, fraction: None,
    ) -> None:
        self.config = config or load_model_config(model_path)
        self.device = choose_device(device) if isinstance(device, str) else device
        self.dtype = choose_dtype(dtype, self.device)
        self.kv_dtype = choose_kv_dtype(kv_cache_dtype, self.dtype)
        if quantization is not None:
            check_fp8(self.dtype, self.device)
        on_cpu = self.device.type == "cpu"
        if on_cpu:
            set_threads(num_threads, parallel.size)
        free_bytes = free_memory(self.device)
        self.context_length = context_length or self.config.context_length
        self.model = build_model(
            self.config, self.dtype, self.device, self.context_length, parallel
        )
        load_weights(
            self.model,
            model_path,
            load_format=load_format,
            seed=seed,
            progress=lambda fraction: progress("loading weights", fraction),
        )
        if quantization is not None:
            self.model.quantize_weights()
        self._checkpoint = Checkpoint(model_path, load_format, seed)
        self.weights_bytes = self.model.weights_bytes()
        self.model.pack_weights()
        if fused_decode and not on_cpu and self.dtype.itemsize == 2:
            self.model.few_tokens = _FEW_TOKENS if quantization is None else _FEW_TOKENS_FP8
        if self.config.is_causal:
            progress("allocating the KV cache", 0.0)
        elif max_total_tokens is None:
            max_total_tokens = max(_TOKENS_ON_THEIR_WAY, 2 * self.context_length)
        sharers = parallel.size if on_cpu else 1  # of the memory that is free
        tokens = pool_tokens(
            free_bytes=free_bytes,
            weights_bytes=sharers * self.weights_bytes,
            table_bytes=self._table_bytes(max_sequences),
            bytes_per_token=max(1, sharers * self._bytes_per_token()),
            mem_fraction_static=mem_fraction_static,
            max_total_tokens=max_total_tokens,
            page_size=page_size,
            device=self.device,
        )
        self.total_tokens = parallel.min(tokens, self.device)
        self._backend_name = backend or default_backend(self.device)
        self._lasting = {*self.__dict__, "_lasting"}  # what `release_memory` leaves
        self._allocate_pool()

    def _allocate_pool(self) -> None:
        """Take memory for keys and values, and put an attention backend over it."""
        self.pool = KVPool.allocate(
            self.total_tokens,
            num_layers=self._cached_layers,
            num_kv_heads=self._num_kv_heads,
            head_dim=self.config.head_dim,
            dtype=self.kv_dtype,
            device=self.device,
        )
        self._backend: AttentionBackend = Bidirectional()
        if self.config.is_causal:
            self._backend = attention_backend(self._backend_name, self.pool.k, self.pool.v)
        self._backend.prepare(self.model.attention_specs, self.dtype)
        self._graphs: DecodeGraphs | None = None

    @property
    def _num_kv_heads(self) -> int:
        """How many this rank holds, the same in each layer."""
        return self.model.attention_specs[0].num_kv_heads

    @property
    def _cached_layers(self) -> int:
        """How many layers' keys and values are kept."""
        return self.config.num_layers if self.config.is_causal else 0

    def _bytes_per_token(self) -> int:
        numbers = 2 * self._cached_layers * self._num_kv_heads * self.config.head_dim
        return numbers * self.kv_dtype.itemsize

    def _table_bytes(self, max_sequences: int) -> int:
        if self.device.type == "cpu":
            return 0
        return 4 * min(max_sequences * self.context_length, PAGE_TABLE_LIMIT)

    # ===== batches =====

    def set_page_table(self, table: np.ndarray) -> None:
        """Take the host's page table [max rows, max context] int32: its size, and on a CPU the
        table itself. A GPU has its own, with a spare row behind, which `StepInput` keeps current.
        """
        rows, columns = table.shape
        on_cpu = self.device.type == "cpu"
        if on_cpu:
            page_table = torch.from_numpy(table)
        else:
            page_table = torch.zeros((rows + 1, columns), dtype=torch.int32, device=self.device)
            page_table[rows].fill_(self.total_tokens)  # the spare row: nothing but the spare slot
        self.next_tokens = torch.zeros(
            rows + 1 + MOST_FORCED_TOKENS,
            dtype=torch.int64 if on_cpu else torch.int32,
            device=self.device,
        )
        self._prepare_output(rows + 1)
        self._page_table = page_table
        self._uploader = None if on_cpu else Uploader(self.device)
        self._batches = BatchBuilder(self._backend, page_table, self.next_tokens, self._uploader)

    def _prepare_output(self, rows: int) -> None:
        """Make what the last part of a step needs, for so many rows of the page table."""
        vocab_size = self.config.vocab_size
        self._sampling = SamplingTable(rows, vocab_size, self.device)
        if self.device.type != "cpu":
            with torch.inference_mode():
                logits = torch.zeros(1, vocab_size, dtype=self.dtype, device=self.device)
                warm_up(logits, self._sampling, self.next_tokens)

    @property
    def supports_graphs(self) -> bool:
        """Whether device and attention backend can capture decode steps."""
        return self.device.type != "cpu" and self._backend.supports_graphs

    def capture_graphs(
        self, batch_sizes: Sequence[int], progress: Progress, *, prefix_sharing: bool = False
    ) -> None:
        """Capture decode steps of these sizes, where device and attention backend can.

        With `prefix_sharing`, steps whose `shared_lens` are given are captured, too.
        """
        if not batch_sizes or not self.supports_graphs:
            return
        assert self._uploader is not None, "set_page_table comes before"
        with torch.inference_mode():
            self._graphs = DecodeGraphs(
                self._hidden,
                self._backend,
                self._page_table,
                self.next_tokens,
                self._uploader,
                batch_sizes=batch_sizes,
                prefix_sharing=prefix_sharing,
                example_tokens=self._example_tokens,
                spare_row=len(self._page_table) - 1,
                spare_slot=self.total_tokens,
                progress=lambda fraction: progress("capturing CUDA graphs", fraction),
            )

    @property
    def _example_tokens(self) -> int:
        # The page table ends with a page, maybe behind the last position that the model knows.
        return min(_EXAMPLE_TOKENS, self.context_length, self._page_table.shape[1])

    def warm_up(self, prompt_tokens: int, *, prefix_sharing: bool = False) -> None:
        """Compute `prompt_tokens` tokens of prompts in the spare slot, on a GPU.

        It compiles what prefill and steps of few tokens need, with `prefix_sharing` also prefill
        after a shared prefix, and takes the memory that the largest chunk will take if everything
        about it is to be known. Raises OutOfMemory if there is not so much left.
        """
        if self.device.type == "cpu":
            return
        length = min(prompt_tokens, self.context_length)
        try:
            for tokens in (1, 2):  # one token has kernels of its own, so have few
                self.launch(self._spare_prompts(tokens)).wait()
            largest = self._spare_prompts(length, prompt_tokens // length)
            self.launch(_with_all_known(largest)).wait()
            if prefix_sharing and self._backend.shares_prefixes:
                shared = self._example_tokens - 1
                self.launch(self._spare_prompts(1, _EXAMPLE_PROMPTS, shared)).wait()
        except torch.OutOfMemoryError:
            raise OutOfMemory(
                f"the GPU's memory does not last for a chunk of {prompt_tokens} tokens beside "
                "weights and KV cache; lower --mem-fraction-static or --chunked-prefill-size"
            ) from None

    def _spare_prompts(self, length: int, count: int = 1, shared: int = 0) -> StepInput:
        """`count` prompts of `length` tokens after `shared` ones, all in the spare slot."""
        slots = np.full(count * length, self.total_tokens, dtype=np.int32)
        shared_lens = np.full(count, shared, dtype=np.int32)
        shared_lens[0] = 0
        return StepInput(
            rows=np.full(count, len(self._page_table) - 1, dtype=np.int32),
            seq_lens=np.full(count, shared + length, dtype=np.int32),
            query_lens=np.full(count, length, dtype=np.int32),
            num_decodes=0,
            prompt_ids=np.zeros_like(slots),
            out_slots=slots,
            sampled=np.zeros(1, dtype=np.int32),
            shared_lens=shared_lens,
        )

    # ===== weights and memory, while no step is computed =====

    def update_weights(self, path: Path, load_format: str, progress: Progress) -> None:
        """Serve the weights at `path` from now on, of the same architecture and sizes.

        All ranks together; see `replace_weights`.
        """
        new = replace(self._checkpoint, path=path, load_format=load_format)
        report = partial(progress, "loading weights")
        replace_weights(self.model, self._checkpoint, new, self.device, report)
        self._checkpoint = new

    def weight(self, name: str, rows: int) -> torch.Tensor:
        """See `read_weight`. All ranks together. Raises OutOfMemory, too."""
        try:
            return read_weight(self.model, name, rows)
        except torch.OutOfMemoryError:
            raise OutOfMemory(f"the GPU's memory does not last to read {name}") from None

    def release_memory(self) -> None:
        """Give back the KV pool, CUDA graphs and all else that steps need; a GPU also the weights,
        which are kept in the host's memory. May be called twice.
        """
        on_gpu = self.device.type == "cuda"
        if on_gpu:
            torch.cuda.synchronize(self.device)
            self.model.to("cpu")
        for name in self.__dict__.keys() - self._lasting:
            delattr(self, name)
        if on_gpu:
            torch.cuda.empty_cache()

    def resume_memory(self) -> None:
        """Take weights and KV pool back; `set_page_table` and what follows it come next.

        Raises OutOfMemory if the memory is not free: `release_memory` gives back what was taken.
        """
        try:
            if self.device.type == "cuda":
                self.model.to(self.device)
            self._allocate_pool()
        except torch.OutOfMemoryError:
            raise OutOfMemory("the GPU's memory is not free for weights and KV cache") from None

    # ===== steps =====

    @torch.inference_mode()
    def launch(self, step: StepInput) -> PendingResult:
        """Start computing `step` and sampling; returns before a GPU is done.

        Steps are computed in the order of their launches.
        """
        if self._graphs is not None and self._graphs.fits(step):
            hidden, rows, seq_lens = self._graphs.replay(step)
        else:
            batch, rows, seq_lens = self._batches.build(step)
            hidden = self._hidden(batch)
        if not len(step.wanted_rows):  # nothing but chunks that do not end their prompt
            return DeviceResult(rows)
        tokens, logprobs, prompt_logprobs, states, processing = rows, None, None, None, None
        if step.prompt_scoring is not None:
            prompt_logprobs = self._score_prompts(step, step.prompt_scoring, hidden)
        if len(step.state_rows):
            states = self._select(hidden, step, step.state_rows).float()
        if len(step.sampled):
            logits = self.model.compute_logits(self._select(hidden, step, step.last_tokens))
            tokens, logprobs, processing = self._draw(step, logits, rows, seq_lens)
        return DeviceResult(tokens, logprobs, prompt_logprobs, states, processing=processing)

    def _select(self, hidden: torch.Tensor, step: StepInput, tokens: np.ndarray) -> torch.Tensor:
        """Of `hidden`, the states of `step.wanted_rows`, those of `tokens` [n] of the step."""
        if len(tokens) == len(hidden):
            return hidden
        return hidden.index_select(0, self._upload(np.searchsorted(step.wanted_rows, tokens)))

    def _draw(
        self, step: StepInput, logits: torch.Tensor, rows: torch.Tensor, seq_lens: torch.Tensor
    ) -> tuple[torch.Tensor, Logprobs[torch.Tensor] | None, Processing | None]:
        """A token for each of `step.sampled`, the log-probabilities that `step.scoring` wants, and
        what custom logit processors did.

        logits: [sampled, vocab]; rows, seq_lens: [sampled]
        """
        if step.sampling:
            self._sampling.set_rows(step.sampling)
        on_host = step.rows[step.sampled]
        processing = self._sampling.processing(on_host)
        flags = self._sampling.flags(on_host)
        drawing = (rows, seq_lens, self._sampling, flags, self.next_tokens, processing, step.masks)
        if step.scoring is None:
            return sample(logits, *drawing), None, processing
        asked = self._upload(step.scoring.rows)
        raw = logits.index_select(0, asked)  # sampling may change them
        tokens = sample(logits, *drawing)
        parts = raw.split(slice_rows(raw.shape[1]))
        scores = self._score(step.scoring, parts, tokens.index_select(0, asked))
        return tokens, scores, processing

    def _score_prompts(
        self, step: StepInput, scoring: Scoring, hidden: torch.Tensor
    ) -> Logprobs[torch.Tensor]:
        """Log-probabilities of the prompts' tokens; `hidden` are `step.wanted_rows`' states."""
        before = self._select(hidden, step, scoring.rows)
        parts = before.split(slice_rows(self.config.vocab_size))
        return self._score(
            scoring, map(self.model.compute_logits, parts), self._upload(scoring.targets)
        )

    def _score(
        self, scoring: Scoring, logits: Iterable[torch.Tensor], tokens: torch.Tensor
    ) -> Logprobs[torch.Tensor]:
        return score(logits, tokens, self._upload(scoring.token_ids), scoring.top)

    def _upload(self, array: np.ndarray) -> torch.Tensor:
        return upload(torch.from_numpy(array), self.device)

    @torch.inference_mode()
    def logits(self, step: StepInput) -> torch.Tensor:
        """Logits [tokens, vocab] float32 after every token of `step`."""
        batch = replace(self._batches.build(step)[0], logit_rows=None)
        return self.model.compute_logits(self._hidden(batch)).float()

    def _hidden(self, batch: ForwardBatch) -> torch.Tensor:
        """Write the batch's keys and values; returns the wanted tokens' hidden states after the
        final norm, [logit rows or tokens, hidden].
        """
        with forward_context(self._backend, batch):
            return self.model(batch.input_ids, batch.positions)


def _with_all_known(step: StepInput) -> StepInput:
    """`step` with log-probabilities and hidden states of all its tokens."""
    rows = np.arange(len(step.prompt_ids), dtype=np.int32)
    nothing = np.empty((len(rows), 0), dtype=np.int32)
    scoring = Scoring(rows, targets=step.prompt_ids, top=1, token_ids=nothing)
    return replace(step, prompt_scoring=scoring, state_rows=rows)
