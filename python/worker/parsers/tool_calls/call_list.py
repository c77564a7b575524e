"""A JSON array of calls: for answers that must call, where the model's own format has no tags."""

from __future__ import annotations

from ..text_reader import Steps
from .json_calls import JsonCallParser


class CallListParser(JsonCallParser):
    """The whole answer is such an array."""

    markers = ()

    def calls(self) -> Steps[None]:
        """There are none but at the start."""
        yield from ()

    def calls_at_start(self) -> Steps[None]:
        """Read the array."""
        yield from self.reader.spaces()
        yield from self.reader.expect("[")
        yield from self.call_list()
