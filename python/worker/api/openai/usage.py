"""The usage object of OpenAI answers."""

from __future__ import annotations

from typing import Any

from ...tokenization.text_output import TextOutput


def by_prompt(outputs: list[TextOutput], samples: int) -> list[list[TextOutput]]:
    """`outputs` has `samples` answers to each prompt, one after the other."""
    return [outputs[first : first + samples] for first in range(0, len(outputs), samples)]


def usage_of(outputs: list[TextOutput], samples: int, cache_report: bool) -> dict[str, Any]:
    """Token counts over all prompts, to each of which there are `samples` answers.

    A prompt counts once. `cache_report` adds how many of its tokens came from the prefix cache: as
    the sample found it that came first and computed the rest.
    """
    prompts = by_prompt(outputs, samples)
    prompt_tokens = sum(answers[0].prompt_tokens for answers in prompts)
    completion_tokens = sum(output.completion_tokens for output in outputs)
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    if cache_report:
        cached_tokens = sum(min(each.cached_tokens for each in answers) for answers in prompts)
        usage["prompt_tokens_details"] = {"cached_tokens": cached_tokens}
    return usage
