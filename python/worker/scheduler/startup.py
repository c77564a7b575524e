"""From server arguments to a scheduler that is ready to step."""

from __future__ import annotations

from collections.abc import Callable

from ..cache.kv_cache import KVCache
from ..config import ServerArgs
from ..embedded_models import resolve_model_path
from ..messages import Ready
from ..runtime.model_runner import ModelRunner
from .scheduler import Scheduler, SchedulerOptions
from .step import Step, forward_batch, logit_rows, sampling_batch

# Defaults that depend on the device: (CPU, GPU).
_CHUNKED_PREFILL_SIZE = (512, 8192)
_MAX_RUNNING_REQUESTS = (256, 4096)


def build_scheduler(
    args: ServerArgs, progress: Callable[[str, float], None]
) -> tuple[Scheduler, Ready]:
    """Load the model and put a scheduler around it; `Ready` has the limits."""
    runner = ModelRunner(
        resolve_model_path(args.model_path),
        load_format=args.load_format,
        dtype=args.dtype,
        device=args.device,
        num_threads=args.num_threads,
        context_length=args.context_length,
        mem_fraction_static=args.mem_fraction_static,
        max_total_tokens=args.max_total_tokens,
        page_size=args.page_size,
        backend=args.attention_backend,
        seed=args.random_seed or 0,
        progress=progress,
    )
    on_gpu = runner.device.type != "cpu"
    context_length = min(runner.context_length, runner.total_tokens)
    max_running = args.max_running_requests or _MAX_RUNNING_REQUESTS[on_gpu]
    chunk_size = args.chunked_prefill_size or _CHUNKED_PREFILL_SIZE[on_gpu]
    cache = KVCache(
        runner.total_tokens,
        max_sequences=max_running + 1,
        max_length=context_length,
        page_size=args.page_size,
        disable_radix_cache=args.disable_radix_cache,
    )
    options = SchedulerOptions(
        context_length=context_length,
        max_running_requests=max_running,
        max_prefill_tokens=max(args.max_prefill_tokens, context_length),
        chunked_prefill_size=None if chunk_size == -1 else chunk_size,
        enable_mixed_chunk=args.enable_mixed_chunk,
        schedule_policy=args.schedule_policy,
        schedule_conservativeness=args.schedule_conservativeness,
        random_seed=args.random_seed,
        eos_token_ids=runner.config.eos_token_ids,
    )
    ready = Ready(
        context_length=context_length,
        max_total_tokens=runner.total_tokens,
        max_running_requests=max_running,
        vocab_size=runner.config.vocab_size,
        eos_token_ids=runner.config.eos_token_ids,
        dtype=str(runner.dtype).removeprefix("torch."),
        device=str(runner.device),
        weights_bytes=runner.weights_bytes,
        kv_cache_bytes=runner.pool.nbytes,
    )
    return Scheduler(cache, _forward(runner, cache), options), ready


def _forward(runner: ModelRunner, cache: KVCache) -> Callable[[Step], list[int]]:
    def forward(step: Step) -> list[int]:
        batch = forward_batch(step, cache, runner.device)
        sampling = sampling_batch(step, runner.config.vocab_size, runner.device)
        return runner.forward(batch, logit_rows(step, runner.device), sampling)

    return forward
