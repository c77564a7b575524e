"""From server arguments to a scheduler that is ready to step."""

from __future__ import annotations

import contextlib
import logging
import random
from collections.abc import Callable

import torch

from ..cache.kv_cache import KVCache
from ..config import ServerArgs
from ..distributed.tensor_parallel import SINGLE, TensorParallel
from ..embedded_models import resolve_model_path
from ..messages import EmbeddingInfo, Ready
from ..models.config import EncoderConfig, ModelConfig, load_model_config
from ..runtime.cuda_graphs import graph_batch_sizes
from ..runtime.device import choose_device
from ..runtime.embedding_runner import EmbeddingRunner
from ..runtime.model_runner import PAGE_TABLE_LIMIT, ModelRunner
from ..runtime.step_result import PendingResult
from .engine_control import EngineControl
from .grammars import Grammars
from .lockstep import LeadingScheduler
from .ranks import Follower, Followers, last_to_fail
from .scheduler import Scheduler, SchedulerOptions
from .step import Step, step_input

logger = logging.getLogger(__name__)

# Defaults that depend on the device: (CPU, GPU).
_CHUNKED_PREFILL_SIZE = (512, 8192)
_CONSIDERATE_CHUNK = (None, 2048)
_MAX_RUNNING_REQUESTS = (256, 4096)

_CUDA_GRAPH_MAX_BS = 512

# What a step outside of the CUDA graphs takes longer than one inside, in decode steps: an estimate.
# The launches of 8B's layers take some 15 ms, and its decode steps from 4; those of small models 1.
_JUMP_FORWARD_COST = 8
# On a CPU a chunk beside decodes costs little, and its tokens as much as others: where many decode,
# short ones were measured to cost 3 % more than they save.
_JUMP_FORWARD_COST_ON_CPU = 0.25

# With fewer running requests, there are graphs for steps of so many tokens all the same, as some
# may be forced.
_LEAST_GRAPH_TOKENS = 32


def build_scheduler(
    args: ServerArgs,
    progress: Callable[[str, float], None],
    ranks: Followers | Follower | None = None,
) -> tuple[Scheduler, Ready]:
    """Load the model and put a scheduler around it; `Ready` has the limits.

    With `args.tp_size` above 1, `ranks` are the others: every rank of the group builds its part.
    """
    assert (args.tp_size > 1) == (ranks is not None)
    with contextlib.nullcontext() if ranks is None else last_to_fail(ranks.grace_seconds):
        return _build(args, progress, ranks)


def _build(
    args: ServerArgs, progress: Callable[[str, float], None], ranks: Followers | Follower | None
) -> tuple[Scheduler, Ready]:
    rank = ranks.rank if isinstance(ranks, Follower) else 0
    device = choose_device(args.device, args.base_gpu_id, rank, args.tp_size)
    parallel = SINGLE
    if ranks is not None:
        parallel = ranks.join(device, one_shot=not args.disable_custom_all_reduce)
    on_gpu = device.type != "cpu"
    max_running = args.max_running_requests or _MAX_RUNNING_REQUESTS[on_gpu]
    runner = _load(args, device, parallel, max_running + 2, progress)
    config = runner.config
    context_length = min(runner.context_length, runner.total_tokens)
    max_running = min(max_running, PAGE_TABLE_LIMIT // (context_length + args.page_size) - 2)
    max_prefill, chunk_size, considerate_size = prefill_sizes(args, config, on_gpu)
    keeps_prefixes = config.reuses_prefixes and not args.disable_radix_cache
    cache = KVCache(
        runner.total_tokens,
        max_sequences=max_running + 1,
        max_length=context_length,
        track_changes=on_gpu,
        page_size=args.page_size,
        disable_radix_cache=not keeps_prefixes,
    )
    graph_sizes: list[int] = []
    if runner.supports_graphs and config.pooling is None:
        graph_sizes = _graph_batch_sizes(args, max_running)
    options = SchedulerOptions(
        context_length=context_length,
        max_running_requests=max_running,
        max_prefill_tokens=max(max_prefill, context_length),
        chunked_prefill_size=chunk_size,
        considerate_chunk_size=considerate_size,
        enable_mixed_chunk=args.enable_mixed_chunk,
        schedule_policy=args.schedule_policy,
        schedule_conservativeness=args.schedule_conservativeness,
        random_seed=_common_seed(args.random_seed, parallel, device),
        tp_size=args.tp_size,
        overlap=on_gpu and not args.disable_overlap_schedule,
        max_queued_requests=args.max_queued_requests,
        prefix_sharing=keeps_prefixes and not args.disable_prefix_sharing,
        eos_token_ids=config.eos_token_ids,
        embeds=config.pooling is not None,
        token_types=config.token_types,
        jump_forward_cost=_jump_forward_cost(on_gpu, graph_sizes),
        graph_tokens=max(graph_sizes, default=0),
    )
    ready = Ready(
        context_length=context_length,
        max_total_tokens=runner.total_tokens,
        max_running_requests=max_running,
        vocab_size=config.vocab_size,
        eos_token_ids=config.eos_token_ids,
        dtype=str(runner.dtype).removeprefix("torch."),
        device=str(runner.device),
        weights_bytes=runner.weights_bytes,
        kv_cache_bytes=runner.pool.nbytes,
        embedding=_embedding_info(config),
        hidden_size=runner.config.hidden_size,
    )
    if on_gpu:
        progress("compiling kernels", 0.0)

    def prepare() -> None:
        runner.set_page_table(cache.table)
        largest = options.chunked_prefill_size or options.max_prefill_tokens
        runner.warm_up(
            min(largest, context_length) if config.is_causal else largest,
            prefix_sharing=options.prefix_sharing,
        )
        runner.capture_graphs(graph_sizes, progress, prefix_sharing=options.prefix_sharing)

    prepare()
    engine = EngineControl(runner, cache, prepare, progress)

    def launch(step: Step) -> PendingResult:
        result = runner.launch(step_input(step, cache))
        cache.forget_table_changes()  # of a launch that fails they are sent again with the next
        engine.profiler.after_step()
        return result

    leads = not isinstance(ranks, Follower)
    grammars = Grammars.of(args, config.vocab_size, config.eos_token_ids, compiles=leads)
    if isinstance(ranks, Followers):
        return LeadingScheduler(cache, launch, options, engine, grammars, followers=ranks), ready
    return Scheduler(cache, launch, options, engine, grammars), ready


def _load(
    args: ServerArgs,
    device: torch.device,
    parallel: TensorParallel,
    max_sequences: int,
    progress: Callable[[str, float], None],
) -> ModelRunner:
    path = resolve_model_path(args.model_path)
    config = load_model_config(path, is_embedding=args.is_embedding)
    if config.pooling is not None and not args.is_embedding:
        logger.info("%s does not generate: served as by --is-embedding", config.architecture)
    runner = ModelRunner if config.pooling is None else EmbeddingRunner
    return runner(
        path,
        config=config,
        load_format=args.load_format,
        dtype=args.dtype,
        quantization=args.quantization,
        kv_cache_dtype=args.kv_cache_dtype,
        device=device,
        parallel=parallel,
        num_threads=args.num_threads,
        context_length=args.context_length,
        mem_fraction_static=args.mem_fraction_static,
        max_total_tokens=args.max_total_tokens,
        page_size=args.page_size,
        max_sequences=max_sequences,
        backend=args.attention_backend,
        fused_decode=not args.disable_fused_decode,
        seed=args.random_seed or 0,
        progress=progress,
    )


def prefill_sizes(
    args: ServerArgs, config: ModelConfig, on_gpu: bool
) -> tuple[int, int | None, int | None]:
    """Tokens of a prefill batch, of a chunk, and of a considerate one; None: prompts come whole."""
    given = args.chunked_prefill_size or _CHUNKED_PREFILL_SIZE[on_gpu]
    chunk = None if given == -1 else given
    if not config.is_causal:  # a batch of whole texts holds as much as a chunk would
        return min(args.max_prefill_tokens, chunk or args.max_prefill_tokens), None, None
    is_considerate = args.chunked_prefill_size is None and config.pooling is None
    considerate = _CONSIDERATE_CHUNK[on_gpu] if is_considerate else None
    return args.max_prefill_tokens, chunk, considerate


def _common_seed(seed: int | None, parallel: TensorParallel, device: torch.device) -> int | None:
    """A seed that all ranks have: where the user gives none, one that the ranks agree on."""
    if seed is not None or parallel.size == 1:
        return seed
    return parallel.min(random.SystemRandom().getrandbits(62), device)


def _embedding_info(config: ModelConfig) -> EmbeddingInfo | None:
    if config.pooling is None:
        return None
    labels = config.pooling.labels
    if not labels:
        return EmbeddingInfo("embedding", config.hidden_size, config.pooling.normalize)
    return EmbeddingInfo(
        "classification",
        len(labels),
        labels=() if labels == ("LABEL_0",) else labels,
        pairs=isinstance(config, EncoderConfig),
    )


def _graph_batch_sizes(args: ServerArgs, max_running: int) -> list[int]:
    if args.disable_cuda_graph:
        return []
    largest = args.cuda_graph_max_bs or _CUDA_GRAPH_MAX_BS
    sizes = args.cuda_graph_bs or graph_batch_sizes(largest)
    most = max_running if args.disable_jump_forward else max(max_running, _LEAST_GRAPH_TOKENS)
    return sorted({min(size, most) for size in sizes})


def _jump_forward_cost(on_gpu: bool, graph_sizes: list[int]) -> float:
    if not on_gpu:
        return _JUMP_FORWARD_COST_ON_CPU
    return _JUMP_FORWARD_COST if graph_sizes else 0
