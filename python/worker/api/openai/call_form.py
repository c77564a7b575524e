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
    client named the one function that is called. `or_schema`: an answer without calls keeps to a
    schema, and is nothing else.
    """

    parser: type[ToolCallParser]
    tools: Tools
    limit: int | None
    grammar: GrammarSpec | None
    is_forced: bool
    or_schema: bool

    @classmethod
    def of(cls, body: AnswerBody, arguments: ServerArgs) -> CallForm | None:
        """None if there are no tools to call. Raises ApiError 400."""
        check_choice(body)
        choice = body.choice
        functions = [tool.function for tool in body.tools_to_call]
        if not functions:
            return None
        schemas = {each.name: each.enforced_schema for each in functions}
        limit = 1 if choice.is_named or body.parallel_tool_calls is False else None
        name = arguments.tool_call_parser
        parser = None if name is None else TOOL_CALL_PARSERS[name]()
        has_tags = bool(parser and parser.triggers and arguments.grammar_backend in _WITH_TAGS)
        or_schema = body.grammar is not None and not choice.must_call
        grammar = None
        if not choice.must_call and parser is None:
            raise bad_request(
                "tools: this worker does not know how its model calls tools; start it with "
                '--tool-call-parser, or give tool_choice "none" or "required"',
                "tools",
            )
        if body.grammar is not None:
            stands_out = parser is not None and has_tags and not parser.calls_are_json
            _check_schema_beside(body, arguments, choice.must_call or stands_out)
        if parser is None or (choice.must_call and not has_tags):
            parser = CallListParser
            grammar = _spec("json_schema", call_list_schema(schemas, limit, "parameters"))
        elif choice.must_call:
            grammar = _tag(parser, schemas, limit, is_alone=True)
        else:
            strict = [each.name for each in functions if each.strict]
            if strict and not has_tags:
                raise bad_request(
                    f"tools: calls of {strict[0]!r} cannot be held to its schema among text "
                    f"{_with_flags(arguments)}; "
                    'give tool_choice "required", or leave strict out',
                    "tools",
                )
            if strict or or_schema:
                held = {each: schemas[each] if each in strict else _ANY_OBJECT for each in schemas}
                grammar = _tag(parser, held, limit, is_alone=or_schema, otherwise=body.grammar)
        return cls(parser, schemas, limit, grammar, choice.is_named, or_schema)

    def new_parser(self) -> ToolCallParser:
        """For one answer."""
        return self.parser(self.tools, self.limit, calls_first=self.or_schema)


def check_choice(body: ToolFields) -> None:
    """Raises ApiError 400 if what is chosen is not there."""
    choice = body.choice
    known = [tool.function.name for tool in body.known_tools]
    if choice.must_call and not known:
        raise bad_request("tool_choice: there are no tools that could be called", "tool_choice")
    for name in choice.names or ():
        if name not in known:
            raise bad_request(f"tool_choice: there is no {name!r} among the tools", "tool_choice")


def _check_schema_beside(body: AnswerBody, arguments: ServerArgs, can_be_told: bool) -> None:
    """Raises ApiError 400 if what answers without calls keep to is no schema. `can_be_told`: where
    it is one, a grammar tells such answers from calls.
    """
    ((field, spec),) = body.grammars.items()
    if spec.kind == "json_schema" and can_be_told:
        return
    where = f"{_with_flags(arguments)} " if spec.kind == "json_schema" else ""
    raise bad_request(
        f"tools: {where}an answer that keeps to {field} cannot call them; leave one of the two "
        'out, or give tool_choice "none"',
        "tools",
    )


def _with_flags(arguments: ServerArgs) -> str:
    name, backend = arguments.tool_call_parser, arguments.grammar_backend
    return f"with --tool-call-parser {name} and --grammar-backend {backend}"


def _tag(
    parser: type[ToolCallParser],
    tools: Tools,
    limit: int | None,
    *,
    is_alone: bool,
    otherwise: GrammarSpec | None = None,
) -> GrammarSpec:
    """Calls in free text, or alone; `otherwise`, a schema, is what an answer without them is."""
    tag = {
        "structures": [asdict(tag) for tag in parser.tags(tools, limit)],
        "triggers": parser.triggers,
        "stop_after_first": limit == 1,
        "separators": parser.separators if is_alone else None,
        "otherwise": otherwise and otherwise.text,
    }
    return _spec("structural_tag", tag)


def _spec(kind: Any, value: Mapping[str, Any]) -> GrammarSpec:
    return GrammarSpec(kind, json.dumps(value, ensure_ascii=False))
