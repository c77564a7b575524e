"""Arguments of which each value stands between tags of its own, without quotes."""

from __future__ import annotations

import json
from collections.abc import Sequence

from ..text_reader import Give, Malformed, Steps
from ..tool_call_parser import ToolCallParser


class TaggedValueParser(ToolCallParser):
    """For formats of this kind: the tool's schema says which values are strings."""

    def argument(
        self, tool: str, key: str, is_first: bool, ends: Sequence[str], give: Give
    ) -> Steps[None]:
        """Read a value up to the first of `ends` and past it; give it and its `key` as JSON.

        A string is given as it comes, and one that may be null when it is complete.
        """
        reader = self.reader
        give(f"{'{' if is_first else ', '}{_json(key)}: ")
        pieces: list[str] = []
        properties = self.tools[tool].get("properties")
        kinds = _kinds(properties.get(key)) if isinstance(properties, dict) else set()
        is_string = kinds == {"string"}
        if is_string:
            give('"')
        sink: Give = (lambda piece: give(_json(piece)[1:-1])) if is_string else pieces.append
        end = yield from reader.copy_until(ends, sink)
        if end is None:
            raise Malformed
        if is_string:
            give('"')
        else:
            text = "".join(pieces)
            is_text = kinds == {"string", "null"} and text != "null"
            give(_json(text) if is_text else _as_json(text))
        yield from reader.expect(end)
        reader.commit()


def _kinds(schema: object) -> set[str | None]:
    """The types that a schema names, by itself or in its choices; None is for what names none."""
    if not isinstance(schema, dict):
        return {None}
    choices = schema.get("anyOf", schema.get("oneOf"))
    if "type" not in schema and isinstance(choices, list):
        return {kind for choice in choices for kind in _kinds(choice)}
    named = schema.get("type")
    kinds = named if isinstance(named, list) else [named]
    return {kind if isinstance(kind, str) else None for kind in kinds}


def _as_json(text: str) -> str:
    """JSON stays what it is; else it is a string."""
    try:
        return _json(json.loads(text, parse_constant=_refuse))
    except (ValueError, RecursionError):
        return _json(text)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


def _json(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    if any("\ud800" <= character <= "\udfff" for character in text):  # UTF-8 has no such
        return json.dumps(value)
    return text
