"""Orders about the engine itself: other weights, its memory, traces of its steps."""

from __future__ import annotations

import logging
import os
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from ..cache.kv_cache import KVCache
from ..distributed.tensor_parallel import OtherRankError
from ..embedded_models import ModelNotFoundError, ModelPullError, resolve_model_path
from ..messages import (
    ControlAnswer,
    ControlOrder,
    GetWeight,
    OrderDone,
    ReleaseMemory,
    ResumeMemory,
    StartProfile,
    StopProfile,
    UpdateWeights,
    WeightValues,
)
from ..runtime.kv_pool import OutOfMemory
from ..runtime.model_runner import ModelRunner, Progress
from ..runtime.profiler import ProfilerError, StepProfiler
from ..runtime.weights import WeightLoadError
from ..runtime.weights.read import UnknownWeightError

logger = logging.getLogger(__name__)

# The folder for traces, if an order names none.
TRACES_VARIABLE = "SGLANG_TORCH_PROFILER_DIR"

_LOG_SECONDS = 10.0


class OrderError(RuntimeError):
    """The order cannot be carried out; one line for the user."""


_EXPECTED = (OrderError, OtherRankError, OutOfMemory, ProfilerError, UnknownWeightError)


class EngineControl:
    """A rank's part in orders; all ranks carry out the same ones, each between the same steps.

    `prepare` makes the runner ready for steps after its pool was allocated. While `released`, it
    can compute none.
    """

    def __init__(
        self, runner: ModelRunner, cache: KVCache, prepare: Callable[[], None], progress: Progress
    ) -> None:
        self.profiler = StepProfiler(runner.device)
        self.released = False
        self._runner = runner
        self._cache = cache
        self._prepare = prepare
        self._progress = progress
        self._parallel = runner.model.parallel
        self._traces: tuple[str, ...] = ()  # of all ranks, those started last

    def carry_out(self, order: ControlOrder) -> ControlAnswer:
        """Do it, and say how it went."""
        try:
            return self._carry_out(order)
        except _EXPECTED as error:
            logger.warning("%s was not carried out: %r", type(order).__name__, str(error))
            return OrderDone(order.rid, False, str(error))

    def _carry_out(self, order: ControlOrder) -> ControlAnswer:
        match order:
            case UpdateWeights(rid):
                self._update_weights(order)
                return OrderDone(rid, True, "Succeeded to update model weights.")
            case GetWeight(rid, name, rows):
                self._expect(released=False)
                values = self._runner.weight(name, rows)
                return WeightValues(rid, tuple(values.shape), values.numpy().tobytes())
            case ReleaseMemory(rid):
                self._release_memory()
                return OrderDone(rid, True, "The memory is released.")
            case ResumeMemory(rid):
                self._resume_memory()
                return OrderDone(rid, True, "The memory is taken back.")
            case StartProfile(rid):
                self._start_profile(order)
                return OrderDone(rid, True, "Start profiling.")
            case StopProfile(rid):
                return OrderDone(rid, True, "Stop profiling.", self._stop_profile())

    # ===== weights and memory =====

    def _update_weights(self, order: UpdateWeights) -> None:
        self._expect(released=False)
        started = time.monotonic()
        with self._parallel.together(self._runner.device):
            path = self._resolve(order.model_path)
        logger.info("updating the weights from %s", path)
        try:
            self._runner.update_weights(path, order.load_format, self._logged_progress())
        except WeightLoadError as error:
            raise OrderError(f"Failed to update weights: {error}") from error
        self._cache.flush()
        logger.info("the weights were updated in %.1f s", time.monotonic() - started)

    def _resolve(self, model_path: str) -> Path:
        try:
            return resolve_model_path(model_path, self._progress)
        except ModelPullError as error:
            reason = str(error)
        except ModelNotFoundError:
            reason = f"{model_path} (repository not found)."
        except (OSError, RuntimeError, ValueError) as error:  # not a name that files can have
            reason = f"{model_path} ({error})."
        raise OrderError(f"Failed to get weights iterator: {reason}")

    def _release_memory(self) -> None:
        self._expect(released=False)
        self._cache.flush()
        self._runner.release_memory()
        self.released = True
        logger.info("weights and KV cache are released")

    def _resume_memory(self) -> None:
        self._expect(released=True)
        reason = self._take_memory()
        if reason is not None:  # the error is gone, whose frames hold on to what was taken
            self._runner.release_memory()
            raise OutOfMemory(reason)
        self.released = False
        logger.info("weights and KV cache are back")

    def _take_memory(self) -> str | None:
        """Why it cannot be had on all ranks, if it cannot."""
        try:
            with self._parallel.together(self._runner.device):
                self._runner.resume_memory()
            self._prepare_or_end()
        except (OutOfMemory, OtherRankError) as error:
            return str(error)
        return None

    def _prepare_or_end(self) -> None:
        """Of several ranks, the others wait inside of a step for one whose memory runs out."""
        try:
            self._prepare()
        except OutOfMemory as error:
            if self._parallel.size > 1:
                raise RuntimeError(str(error)) from error
            raise

    def _expect(self, *, released: bool) -> None:
        if self.released and not released:
            raise OrderError("The memory is released: resume it first")
        if released and not self.released:
            raise OrderError("The memory is not released")

    def _logged_progress(self) -> Progress:
        """The engine's, and now and then a line in the log."""
        logged = time.monotonic()

        def report(stage: str, fraction: float) -> None:
            nonlocal logged
            self._progress(stage, fraction)
            if time.monotonic() - logged >= _LOG_SECONDS:
                logged = time.monotonic()
                logger.info("%s: %d %%", stage, 100 * fraction)

        return report

    # ===== traces =====

    def _start_profile(self, order: StartProfile) -> None:
        folder = order.folder or os.environ.get(TRACES_VARIABLE) or tempfile.gettempdir()
        start = Path(folder).absolute() / order.name
        traces = [f"{start}-TP-{rank}.trace.json.gz" for rank in range(self._parallel.size)]
        with self._parallel.together(self._runner.device):
            self.profiler.start(
                Path(traces[self._parallel.rank]),
                num_steps=order.num_steps,
                activities=order.activities,
                with_stack=order.with_stack,
                record_shapes=order.record_shapes,
            )
        self._traces = tuple(traces)

    def _stop_profile(self) -> tuple[str, ...]:
        """The files of all ranks, once they are written."""
        with self._parallel.together(self._runner.device):
            self.profiler.stop()
        return self._traces
