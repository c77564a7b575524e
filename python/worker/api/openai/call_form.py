"""How answers call tools: who reads the calls, and what holds answers to them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from ...config import ServerArgs
from ...messages import GrammarSpec
from ...parsers.call_tags import Tools, call_list_schema
from ...parsers.registry import TOOL_CALL_PARSERS
from ...parsers.tool_call_parser import ToolCallParser
from ...parsers.tool_calls.call_list import CallListParser
from ..errors import bad_request
from .types import AnswerBody, ToolFields

# Grammar backends that know structural tags.
_WITH_TAGS = {"xgrammar", "llguidance"}
_ANY_OBJECT = {"type": "object"}


@dataclass(frozen=True)
class CallForm:
    """`tools` are those that can be called, `limit` how many times in one answer. `is_forced`: the
    client named the one function that is called.
    """

    parser: type[ToolCallParser]
    tools: Tools
    limit: int | None
    grammar: GrammarSpec | None
    is_forced: bool

    @classmethod
    def of(cls, body: AnswerBody, arguments: ServerArgs) -> CallForm | None:
        """None if there are no tools to call. Raises ApiError 400."""
        check_choice(body)
        choice = body.choice
        functions = [tool.function for tool in body.tools_to_call]
        if not functions:
            return None
        if body.grammar is not None:
            (field,) = body.grammars
            raise bad_request(
                f"tools: an answer that keeps to {field} cannot call them; leave one of the two "
                'out, or give tool_choice "none"',
                "tools",
            )
        schemas = {each.name: each.enforced_schema for each in functions}
        limit = 1 if choice.is_named or body.parallel_tool_calls is False else None
        name = arguments.tool_call_parser
        parser = None if name is None else TOOL_CALL_PARSERS[name]()
        has_tags = bool(parser and parser.triggers and arguments.grammar_backend in _WITH_TAGS)
        if choice.must_call and not has_tags:
            parser = CallListParser
            grammar = _spec("json_schema", call_list_schema(schemas, limit, "parameters"))
        elif parser is None:
            raise bad_request(
                "tools: this worker does not know how its model calls tools; start it with "
                '--tool-call-parser, or give tool_choice "none" or "required"',
                "tools",
            )
        elif choice.must_call:
            grammar = _tag(parser, schemas, limit, must_call=True)
        elif strict := [each.name for each in functions if each.strict]:
            if not has_tags:
                raise bad_request(
                    f"tools: calls of {strict[0]!r} cannot be held to its schema among text with "
                    f"--tool-call-parser {name} and --grammar-backend {arguments.grammar_backend}; "
                    'give tool_choice "required", or leave strict out',
                    "tools",
                )
            held = {name: schemas[name] if name in strict else _ANY_OBJECT for name in schemas}
            grammar = _tag(parser, held, limit, must_call=False)
        else:
            grammar = None
        return cls(parser, schemas, limit, grammar, choice.is_named)


def check_choice(body: ToolFields) -> None:
    """Raises ApiError 400 if what is chosen is not there."""
    choice = body.choice
    known = [tool.function.name for tool in body.known_tools]
    if choice.must_call and not known:
        raise bad_request("tool_choice: there are no tools that could be called", "tool_choice")
    for name in choice.names or ():
        if name not in known:
            raise bad_request(f"tool_choice: there is no {name!r} among the tools", "tool_choice")


def _tag(
    parser: type[ToolCallParser], tools: Tools, limit: int | None, *, must_call: bool
) -> GrammarSpec:
    tag = {
        "structures": [asdict(tag) for tag in parser.tags(tools, limit)],
        "triggers": parser.triggers,
        "stop_after_first": limit == 1,
        "separators": parser.separators if must_call else None,
    }
    return _spec("structural_tag", tag)


def _spec(kind: Any, value: Mapping[str, Any]) -> GrammarSpec:
    return GrammarSpec(kind, json.dumps(value, ensure_ascii=False))
