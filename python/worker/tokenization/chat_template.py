"""Chat templates: Jinja in a sandbox, with the additions that Hugging Face's templates rely on."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from jinja2 import TemplateError, TemplateSyntaxError, meta, nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment


class ChatTemplateError(ValueError):
    """The template cannot be compiled, or refuses these messages; the text says why."""


class JsonObject(dict[str, Any]):
    """An object for templates: some look into it, others write it as if it were a string.

    The string is the JSON that it comes from. Raises ValueError if that is no JSON object.
    """

    def __init__(self, text: str) -> None:
        value = json.loads(text)
        if not isinstance(value, dict):
            raise ValueError(f"{text} is no JSON object")
        super().__init__(value)
        self._text = text

    def __str__(self) -> str:
        return self._text

    def __add__(self, other: str) -> str:
        return self._text + other

    def __radd__(self, other: str) -> str:
        return other + self._text


# Marks where a message that is to be continued ends, however the template went on.
_CUT = "\ue000the answer goes on here\ue000"


class ChatTemplate:
    """A compiled template. `special_tokens` are its variables such as bos_token and eos_token.

    `own_variables` are those that `render` sets by itself. `stop_strings` and `stop_token_ids` end
    answers besides what requests ask for.
    """

    own_variables = frozenset({"messages", "tools", "documents", "add_generation_prompt"})

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str],
        stop_strings: tuple[str, ...] = (),
        stop_token_ids: tuple[int, ...] = (),
    ) -> None:
        self.stop_strings = stop_strings
        self.stop_token_ids = stop_token_ids
        self._special_tokens = dict(special_tokens)
        environment = _environment()
        try:
            self._template = environment.from_string(source)
            self._read = meta.find_undeclared_variables(environment.parse(source))
        except TemplateSyntaxError as error:
            raise ChatTemplateError(f"chat template, line {error.lineno}: {error}") from error

    def reads(self, variable: str) -> bool:
        """Whether this variable can make a difference."""
        return variable in self._read

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any] | None = None,
        *,
        tools: Sequence[Mapping[str, Any]] | None = None,
        continue_final_message: bool = False,
    ) -> str:
        """The prompt that asks for the assistant's next message, or for the rest of the last one.

        `tools` are in OpenAI's form; `variables` are further ones for the template. Raises
        ChatTemplateError if it refuses the messages, or leaves out the one that is to be continued.
        """
        if not continue_final_message:
            return self._apply(messages, variables, tools, add_generation_prompt=True)
        open_ended = {**messages[-1], "content": (messages[-1]["content"] or "") + _CUT}
        rendered = self._apply(
            [*messages[:-1], open_ended], variables, tools, add_generation_prompt=False
        )
        prompt, mark, _ = rendered.rpartition(_CUT)
        if not mark:
            raise ChatTemplateError("the chat template leaves out the last message")
        return prompt.replace(_CUT, "")

    def _apply(
        self,
        messages: Sequence[Mapping[str, Any]],
        variables: Mapping[str, Any] | None,
        tools: Sequence[Mapping[str, Any]] | None,
        *,
        add_generation_prompt: bool,
    ) -> str:
        known: dict[str, Any] = {
            "messages": messages,
            "tools": tools or None,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
        }
        try:
            return self._template.render({**self._special_tokens, **(variables or {}), **known})
        except ChatTemplateError:
            raise
        except (TemplateError, TypeError, ValueError, ArithmeticError, LookupError) as error:
            raise ChatTemplateError(f"the chat template cannot be applied: {error}") from error


class _GenerationTag(Extension):
    """`{% generation %}` marks the assistant's words for training; here it is transparent."""

    tags = {"generation"}  # noqa: RUF012 - jinja2 declares it so

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.Scope(body, lineno=line)


def _environment() -> ImmutableSandboxedEnvironment:
    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True,
        lstrip_blocks=True,
        extensions=[_GenerationTag, "jinja2.ext.loopcontrols"],
    )
    helpers: dict[str, Callable[..., Any]] = {
        "raise_exception": _raise_exception,
        "strftime_now": lambda form: datetime.now().strftime(form),
    }
    environment.globals.update(helpers)
    environment.filters["tojson"] = _to_json
    return environment


def _raise_exception(message: str) -> None:
    raise ChatTemplateError(f"the chat template refuses these messages: {message}")


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Unlike Jinja's own, without escapes for HTML."""
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )
