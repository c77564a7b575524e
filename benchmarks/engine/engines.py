"""Offline engines under one face: ours, vLLM's and SGLang's, all on dummy weights."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any


class OfflineEngine(ABC):
    """A loaded model that answers token prompts. `version` is that of its package.

    `__init__` takes a folder with config.json, whether prompts share what is cached of others, and
    arguments under the engine's own names.
    """

    name: str
    version: str

    @abstractmethod
    def __init__(self, model: str, prefix_cache: bool, **arguments: Any) -> None: ...

    @abstractmethod
    def generate(
        self, prompts: list[list[int]], output_lengths: list[int], temperature: float
    ) -> int:
        """Answer all prompts, past any end-of-text token; returns how many tokens were made."""

    @abstractmethod
    def clear_prefix_cache(self) -> None:
        """Forget all prompts."""

    @abstractmethod
    def close(self) -> None:
        """Give the memory back and end what was started."""


class Radixfleet(OfflineEngine):
    """Our own; `engine` for those who look closer."""

    name = "radixfleet"

    def __init__(self, model: str, prefix_cache: bool, **arguments: Any) -> None:
        from radixfleet import Engine
        from worker import __version__

        self.version = __version__
        self.engine = Engine(
            model_path=model,
            load_format="dummy",
            skip_tokenizer_init=True,
            disable_radix_cache=not prefix_cache,
            **arguments,
        )

    def generate(
        self, prompts: list[list[int]], output_lengths: list[int], temperature: float
    ) -> int:
        params = _sampling_params(output_lengths, temperature)
        answers = self.engine.generate(input_ids=prompts, sampling_params=params)
        return sum(len(answer["output_ids"]) for answer in answers)

    def clear_prefix_cache(self) -> None:
        self.engine.flush_cache()

    def close(self) -> None:
        self.engine.shutdown()


class VLLM(OfflineEngine):
    """`vllm.LLM`."""

    name = "vllm"

    def __init__(self, model: str, prefix_cache: bool, **arguments: Any) -> None:
        import vllm

        self.version = vllm.__version__
        self._params = vllm.SamplingParams
        self._llm = vllm.LLM(
            model=model,
            load_format="dummy",
            dtype="bfloat16",
            skip_tokenizer_init=True,
            enable_prefix_caching=prefix_cache,
            **arguments,
        )

    def generate(
        self, prompts: list[list[int]], output_lengths: list[int], temperature: float
    ) -> int:
        params = [
            self._params(
                temperature=temperature, max_tokens=length, ignore_eos=True, detokenize=False
            )
            for length in output_lengths
        ]
        asked = [{"prompt_token_ids": prompt} for prompt in prompts]
        answers = self._llm.generate(asked, params, use_tqdm=False)
        return sum(len(answer.outputs[0].token_ids) for answer in answers)

    def clear_prefix_cache(self) -> None:
        self._llm.reset_prefix_cache()

    def close(self) -> None:
        del self._llm


class SGLang(OfflineEngine):
    """`sglang.Engine`."""

    name = "sglang"

    def __init__(self, model: str, prefix_cache: bool, **arguments: Any) -> None:
        import sglang

        self.version = sglang.__version__
        self._engine = sglang.Engine(
            model_path=model,
            load_format="dummy",
            dtype="bfloat16",
            skip_tokenizer_init=True,
            disable_radix_cache=not prefix_cache,
            **arguments,
        )

    def generate(
        self, prompts: list[list[int]], output_lengths: list[int], temperature: float
    ) -> int:
        params = _sampling_params(output_lengths, temperature)
        answers = self._engine.generate(input_ids=prompts, sampling_params=params)
        return sum(answer["meta_info"]["completion_tokens"] for answer in answers)

    def clear_prefix_cache(self) -> None:
        self._engine.flush_cache()

    def close(self) -> None:
        self._engine.shutdown()


def _sampling_params(output_lengths: list[int], temperature: float) -> list[dict[str, Any]]:
    """In SGLang's names, which are ours."""
    return [
        {"temperature": temperature, "max_new_tokens": length, "ignore_eos": True}
        for length in output_lengths
    ]


ENGINES: dict[str, type[OfflineEngine]] = {
    engine.name: engine for engine in (Radixfleet, VLLM, SGLang)
}
