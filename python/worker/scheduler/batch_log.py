"""The log's lines about batches, in SGLang's form, and the throughput that they show."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from .scheduler import Scheduler
from .step import PrefillChunk

logger = logging.getLogger(__name__)


class BatchLog:
    """A line for each batch with prompts, and one after every `interval` batches without.

    `clock` is in seconds.
    """

    def __init__(
        self, scheduler: Scheduler, interval: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._scheduler = scheduler
        self._interval = interval
        self._clock = clock
        self._cached_tokens = 0
        # Since the last line about a decode batch: idle time does not count.
        self._decode_steps = 0
        self._tokens = 0
        self._seconds = 0.0
        # When the last step came back.
        self._was_busy = False
        self._then = 0.0
        self._tokens_then = 0
        self._measured = 0.0

    @property
    def throughput(self) -> float:
        """Generated tokens a second, as the last line about a decode batch said; 0 when idle."""
        return 0.0 if self._scheduler.is_idle else self._measured

    def after_step(self) -> None:
        """To be called whenever `scheduler.step` has returned."""
        now, tokens = self._clock(), self._scheduler.counters.generated_tokens
        if self._was_busy:
            self._seconds += now - self._then
            self._tokens += tokens - self._tokens_then
        self._was_busy = not self._scheduler.is_idle
        self._then, self._tokens_then = now, tokens
        step = self._scheduler.launched
        if step is None:
            return
        prompts = [chunk for chunk in step.prefills if not chunk.forced]
        if prompts:
            self._log_prefill(prompts)
            return
        self._decode_steps += 1
        if self._decode_steps >= self._interval:
            self._log_decode()

    def _log_prefill(self, chunks: list[PrefillChunk]) -> None:
        scheduler = self._scheduler
        cached = scheduler.counters.cached_prompt_tokens
        logger.info(
            "Prefill batch. #new-seq: %d, #new-token: %d, #cached-token: %d, cache hit rate: %.2f%%"
            ", token usage: %.2f, #running-req: %d, #queue-req: %d",
            len(chunks),
            sum(map(len, chunks)),
            cached - self._cached_tokens,
            100.0 * cached / max(scheduler.counters.prompt_tokens, 1),
            scheduler.cache.used_tokens / scheduler.cache.total_tokens,
            scheduler.running_requests,
            len(scheduler.waiting),
        )
        self._cached_tokens = cached

    def _log_decode(self) -> None:
        scheduler = self._scheduler
        if self._seconds > 0.0:
            self._measured = self._tokens / self._seconds
        used = scheduler.cache.used_tokens
        logger.info(
            "Decode batch. #running-req: %d, #token: %d, token usage: %.2f, "
            "gen throughput (token/s): %.2f, #queue-req: %d",
            scheduler.running_requests,
            used,
            used / scheduler.cache.total_tokens,
            self._measured,
            len(scheduler.waiting),
        )
        self._decode_steps, self._tokens, self._seconds = 0, 0, 0.0
