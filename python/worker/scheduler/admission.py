"""How many tokens of KV memory running requests will still need, learned from what happens."""

from __future__ import annotations

from collections.abc import Iterable

from .request import Request

# A request seldom uses all of `max_new_tokens`. The ratio below is the share that admission
# reserves for it; it starts high, sinks while nothing goes wrong, and rises at a retraction.
# Figures as in SGLang 0.4.3.
_START = 0.7
_LEAST_SHARE_OF_START = 0.14
_DECAY_STEPS = 600
_RETRACTION_MARGIN_TOKENS = 20

# A single request never reserves more than this for its answer: it can be retracted.
RESERVE_LIMIT = 4096


class NewTokenEstimate:
    """The share of its remaining tokens that a running request is expected to generate."""

    def __init__(self, conservativeness: float = 1.0) -> None:
        self._start = min(_START * conservativeness, 1.0)
        self._least = self._start * _LEAST_SHARE_OF_START
        self._decay = (self._start - self._least) / _DECAY_STEPS
        self.ratio = self._start

    def expected_tokens(self, running: Iterable[Request]) -> int:
        """Tokens that `running` will still generate, by estimate."""
        return sum(int(self.ratio * min(r.remaining_tokens, RESERVE_LIMIT)) for r in running)

    def after_decode(self) -> None:
        """A decode step found room for everyone."""
        self.ratio = max(self.ratio - self._decay, self._least)

    def after_retraction(self, running: list[Request]) -> None:
        """Requests had to leave; `running` are those that stayed."""
        limit = sum(r.sampling.max_new_tokens for r in running)
        made = sum(r.output_length for r in running)
        margin = _RETRACTION_MARGIN_TOKENS * len(running)
        self.ratio = min((made + margin) / limit, 1.0) if limit else self._start

    def when_idle(self) -> None:
        """Nothing runs: forget what was learned."""
        self.ratio = self._start
