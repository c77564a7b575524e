"""The APIs that servers offer: how each is asked for a stream, and what its events say."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

from .workloads import Request


class FailedError(Exception):
    """The server refused or broke off; the message is one line."""


@dataclass
class Answer:
    """What came of a request. Times are seconds after the beginning of the run."""

    request: Request
    due: float = 0.0
    """When it was to be sent."""
    sent: float = 0.0
    chunk_times: list[float] = field(default_factory=list)
    """When text came; what has none, as the head of a chat, is not counted."""
    chunk_tokens: list[int] = field(default_factory=list)
    """Tokens in each of them; 1 where the server does not say."""
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    """These three are the server's own counts."""
    finished: bool = False
    failure: str | None = None

    def arrived(self, seconds: float, tokens: int = 1) -> None:
        """A chunk came."""
        self.chunk_times.append(seconds)
        self.chunk_tokens.append(tokens)


class Backend(ABC):
    """One API. `extra` is added to every body, also into the objects that it has; with `ignore_eos`
    answers have the length asked.
    """

    path: ClassVar[str]

    def __init__(
        self, model: str, ignore_eos: bool = True, extra: dict[str, Any] | None = None
    ) -> None:
        self.model = model
        self.ignore_eos = {"ignore_eos": True} if ignore_eos else {}
        self.extra = extra or {}

    def body(self, request: Request) -> dict[str, Any]:
        """What is sent."""
        body = self.fields(request)
        for name, value in self.extra.items():
            both_objects = isinstance(value, dict) and isinstance(body.get(name), dict)
            body[name] = {**body[name], **value} if both_objects else value
        return body

    @abstractmethod
    def fields(self, request: Request) -> dict[str, Any]:
        """What is sent, without `extra`."""

    @abstractmethod
    def read(self, event: dict[str, Any], seconds: float, answer: Answer) -> None:
        """Note in `answer` what an event says that came at `seconds`."""


class Completions(Backend):
    """/v1/completions."""

    path = "/v1/completions"

    def fields(self, request: Request) -> dict[str, Any]:
        return {
            **self.question(request.prompt),
            "model": self.model,
            "max_tokens": request.output_length,
            "temperature": 0.0,
            "stream": True,
            "stream_options": {"include_usage": True},
            **self.ignore_eos,
        }

    def question(self, prompt: str) -> dict[str, Any]:
        """The field that holds the prompt."""
        return {"prompt": prompt}

    def text(self, choice: dict[str, Any]) -> str | None:
        """What a choice adds to the answer."""
        return choice.get("text")

    def read(self, event: dict[str, Any], seconds: float, answer: Answer) -> None:
        for choice in event.get("choices", ()):
            if choice.get("finish_reason"):
                answer.finished = True
            # Special tokens have no text: of an answer that has nothing else the end is counted.
            if self.text(choice) or (answer.finished and not answer.chunk_times):
                answer.arrived(seconds)
        if usage := event.get("usage"):
            answer.prompt_tokens = usage["prompt_tokens"]
            answer.output_tokens = usage.get("completion_tokens", 0)
            details = usage.get("prompt_tokens_details") or {}
            answer.cached_tokens = details.get("cached_tokens")


class ChatCompletions(Completions):
    """/v1/chat/completions, a prompt as one message of the user."""

    path = "/v1/chat/completions"

    def question(self, prompt: str) -> dict[str, Any]:
        return {"messages": [{"role": "user", "content": prompt}]}

    def text(self, choice: dict[str, Any]) -> str | None:
        delta = choice.get("delta") or {}
        return delta.get("content") or delta.get("reasoning_content") or delta.get("reasoning")


class Generate(Backend):
    """SGLang's native /generate: each event has the whole text so far, and counts of tokens."""

    path = "/generate"

    def fields(self, request: Request) -> dict[str, Any]:
        sampling = {"temperature": 0.0, "max_new_tokens": request.output_length, **self.ignore_eos}
        return {"text": request.prompt, "sampling_params": sampling, "stream": True}

    def read(self, event: dict[str, Any], seconds: float, answer: Answer) -> None:
        counts = event["meta_info"]
        tokens = counts["completion_tokens"]
        if tokens > (answer.output_tokens or 0):
            answer.arrived(seconds, tokens - (answer.output_tokens or 0))
        answer.output_tokens = tokens
        answer.prompt_tokens = counts["prompt_tokens"]
        answer.cached_tokens = counts.get("cached_tokens")
        answer.finished = bool(counts.get("finish_reason"))


BACKENDS: dict[str, type[Backend]] = {
    "sglang": Generate,
    "openai": Completions,
    "openai-chat": ChatCompletions,
}
