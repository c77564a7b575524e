"""The usage object of OpenAI answers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ...tokenization.text_output import TextOutput


def usage_of(outputs: Sequence[TextOutput], cache_report: bool) -> dict[str, Any]:
    """Token counts over all prompts; `cache_report` adds how many came from the prefix cache."""
    prompt_tokens = sum(output.prompt_tokens for output in outputs)
    completion_tokens = sum(output.completion_tokens for output in outputs)
    usage: dict[str, Any] = {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
    if cache_report:
        cached_tokens = sum(output.cached_tokens for output in outputs)
        usage["prompt_tokens_details"] = {"cached_tokens": cached_tokens}
    return usage
