"""What the offline engine can be told about itself: other weights, its memory, traces."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Literal

import msgspec

from worker.config import ServerArgs
from worker.messages import (
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
from worker.scheduler.scheduler import Scheduler

_NOBODY = ""  # nobody waits for the answer under an id: it is returned


class ControlledEngine(ABC):
    """Orders to an engine. What needs it idle first lets the streams that are open run to their
    ends; they can be read afterwards. Arguments that no order can have raise ValueError.
    """

    server_args: ServerArgs

    @property
    @abstractmethod
    def scheduler(self) -> Scheduler:
        """What carries orders out."""

    @abstractmethod
    def finish_running(self) -> None:
        """Step until no request is running."""

    def update_weights_from_disk(
        self, model_path: str, load_format: str | None = None
    ) -> tuple[bool, str]:
        """Use the weights at `model_path`, of a model of the same architecture and sizes.

        Returns whether it went well, and SGLang's message or why not: then the old ones are used.
        """
        load_format = load_format or "auto"
        then = self.server_args.with_weights(model_path, load_format)
        self.finish_running()
        answer = self._carry_out(UpdateWeights(_NOBODY, model_path, load_format))
        if answer.success:
            self.server_args = then
        return answer.success, answer.message

    def get_weights_by_name(self, name: str, truncate_size: int = 100) -> Any:
        """The first rows of the checkpoint's tensor `name`, or numbers of a vector, as lists.

        Raises ValueError if there is none, or if the memory is released.
        """
        answer = self._control(GetWeight(_NOBODY, name, truncate_size))
        if not isinstance(answer, WeightValues):
            raise ValueError(answer.message)
        return memoryview(answer.values).cast("f", answer.shape).tolist()

    def release_memory_occupation(self) -> None:
        """Give back weights and KV cache, until `resume_memory_occupation`.

        Raises RuntimeError if that was done.
        """
        self.finish_running()
        self._insist(ReleaseMemory(_NOBODY))

    def resume_memory_occupation(self) -> None:
        """Take the memory back. Raises RuntimeError if it is not free, or was not released."""
        self._insist(ResumeMemory(_NOBODY))

    def start_profile(
        self,
        output_dir: str | None = None,
        num_steps: int | None = None,
        activities: Sequence[Literal["CPU", "GPU"]] | None = None,
        with_stack: bool = False,
        record_shapes: bool = False,
    ) -> None:
        """Trace what the engine does; with `num_steps`, so many steps of it.

        `output_dir` is by default $SGLANG_TORCH_PROFILER_DIR, or where temporary files go. Raises
        RuntimeError if a trace is being made already, or cannot be.
        """
        self._insist(
            StartProfile(
                _NOBODY,
                name=f"{time.time():.3f}-{os.getpid()}",
                folder=output_dir,
                num_steps=num_steps,
                activities=tuple(activities or ()),
                with_stack=with_stack,
                record_shapes=record_shapes,
            )
        )

    def stop_profile(self) -> list[str]:
        """End the trace; returns its files, one for each rank. Raises RuntimeError if there is
        none.
        """
        return list(self._insist(StopProfile(_NOBODY)).files)

    def _insist(self, order: ControlOrder) -> OrderDone:
        answer = self._carry_out(order)
        if not answer.success:
            raise RuntimeError(answer.message)
        return answer

    def _carry_out(self, order: ControlOrder) -> OrderDone:
        answer = self._control(order)
        assert isinstance(answer, OrderDone)
        return answer

    def _control(self, order: ControlOrder) -> ControlAnswer:
        """Have an order carried out that other ranks can read, too."""
        try:
            msgspec.convert(msgspec.to_builtins(order), type(order))
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from None
        return self.scheduler.control(order)
