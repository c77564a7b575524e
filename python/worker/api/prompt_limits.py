"""What fits: a prompt and its answer against the model's context and the KV cache."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..messages import SamplingParams
from .errors import ApiError, bad_request
from .fields import MOST_ITEMS

# Texts that one call may give to be embedded, ranked or scored: as many as OpenAI embeds.
MOST_TEXTS = 2048


def check_answers(prompts: int, samples: int, param: str) -> None:
    """Raises ApiError 400 for more answers than one call may ask for, over all of its prompts."""
    if prompts * samples > MOST_ITEMS:
        raise bad_request(
            f"{param}: {samples} answers to each of {prompts} prompts are more than one call may "
            f"ask for, which are {MOST_ITEMS}",
            param,
            "invalid_value",
        )


def check_count(count: int, param: str) -> None:
    """Raises ApiError 400 for an empty list, and for one that is too long."""
    if not 1 <= count <= MOST_TEXTS:
        message = f"{param} must have 1 to {MOST_TEXTS} entries, not {count}"
        raise bad_request(message, param, "invalid_value")


@dataclass(frozen=True)
class PromptLimits:
    """Sizes in tokens, prompt and answer together.

    `auto_truncate` cuts prompts instead of refusing them.
    """

    context_length: int
    max_total_tokens: int
    vocab_size: int
    auto_truncate: bool = False

    @property
    def longest_request(self) -> int:
        """The smaller of the context and the KV cache."""
        return min(self.context_length, self.max_total_tokens)

    def check_token_ids(self, token_ids: Sequence[int], param: str) -> None:
        """Raises ApiError 400 if an id is outside the vocabulary."""
        if token_ids and not 0 <= min(token_ids) <= max(token_ids) < self.vocab_size:
            wrong = next(each for each in token_ids if not 0 <= each < self.vocab_size)
            raise bad_request(
                f"{param}: token id {wrong} is outside the vocabulary of {self.vocab_size} tokens",
                param,
                "invalid_value",
            )

    def check_sampling(
        self, sampling: SamplingParams, *, prefix: str = "", least: str = "min_tokens"
    ) -> None:
        """Raises ApiError 400 for token ids that the model does not have, and for more tokens
        asked for than the answer may have. `prefix` and `least` name the fields.
        """
        self.check_token_ids(sampling.stop_token_ids, f"{prefix}stop_token_ids")
        self.check_token_ids([token for token, _ in sampling.logit_bias], f"{prefix}logit_bias")
        if sampling.min_new_tokens > sampling.max_new_tokens:
            raise bad_request(
                f"{prefix}{least}: the answer can have at most {sampling.max_new_tokens} tokens, "
                f"not {sampling.min_new_tokens}",
                f"{prefix}{least}",
                "invalid_value",
            )

    def fit_prompt(self, token_ids: list[int], max_new_tokens: int | None, param: str) -> list[int]:
        """The prompt, cut to its end if it is too long and may be cut.

        A cut leaves room for `max_new_tokens`, though never for more than half of all. Raises
        ApiError 400 if the prompt is empty, has ids outside the vocabulary, or leaves no room for
        even one token, if there are to be any.
        """
        self._check_some(token_ids, param)
        least = 0 if max_new_tokens == 0 else 1
        if len(token_ids) + least <= self.longest_request:
            return token_ids
        if not self.auto_truncate:
            raise self._too_long(f"The prompt has {len(token_ids)} tokens", param)
        half = self.longest_request // 2
        room = half if max_new_tokens is None else min(max_new_tokens, half)
        return token_ids[-max(self.longest_request - room, 1) :]

    def fit_text(self, token_ids: list[int], param: str) -> list[int]:
        """What an embedding model reads, which needs no room for an answer.

        It loses its end if it is too long and may be cut. Raises ApiError 400 if it is empty, has
        ids outside the vocabulary, or is too long.
        """
        self._check_some(token_ids, param)
        if len(token_ids) > self.longest_request and not self.auto_truncate:
            raise bad_request(
                f"{param} has {len(token_ids)} tokens, but a text can have at most "
                f"{self.longest_request} ({self._limit})",
                param,
                "context_length_exceeded",
            )
        return token_ids[: self.longest_request]

    def room_after(self, prompt_tokens: int) -> int:
        """How many tokens the answer can have."""
        return self.longest_request - prompt_tokens

    def check_answer_fits(self, prompt_tokens: int, max_new_tokens: int, param: str) -> None:
        """Raises ApiError 400 if prompt and answer together are too long."""
        if max_new_tokens > self.room_after(prompt_tokens):
            raise self._too_long(
                f"The prompt has {prompt_tokens} tokens and {param} asks for {max_new_tokens}",
                param,
            )

    def _check_some(self, token_ids: list[int], param: str) -> None:
        if not token_ids:
            raise bad_request(f"{param}: the prompt has no tokens", param, "invalid_value")
        self.check_token_ids(token_ids, param)

    @property
    def _limit(self) -> str:
        if self.context_length <= self.max_total_tokens:
            return "the context of the model"
        return "the KV cache of this worker"

    def _too_long(self, what: str, param: str) -> ApiError:
        return bad_request(
            f"{what}, but prompt and answer together can have at most "
            f"{self.longest_request} tokens ({self._limit})",
            param,
            "context_length_exceeded",
        )
