"""Parsers by the names that --tool-call-parser and --reasoning-parser take."""

from __future__ import annotations

from collections.abc import Callable

from .reasoning_parser import ReasoningFormat
from .tool_call_parser import ToolCallParser

_Load = Callable[[], type[ToolCallParser]]


def _llama3() -> type[ToolCallParser]:
    from .tool_calls.llama3 import Llama3Parser

    return Llama3Parser


def _mistral() -> type[ToolCallParser]:
    from .tool_calls.mistral import MistralParser

    return MistralParser


def _qwen25() -> type[ToolCallParser]:
    from .tool_calls.qwen25 import Qwen25Parser

    return Qwen25Parser


def _deepseekv3() -> type[ToolCallParser]:
    from .tool_calls.deepseekv3 import DeepSeekV3Parser

    return DeepSeekV3Parser


def _deepseekv31() -> type[ToolCallParser]:
    from .tool_calls.deepseekv3 import DeepSeekV31Parser

    return DeepSeekV31Parser


def _pythonic() -> type[ToolCallParser]:
    from .tool_calls.pythonic import PythonicParser

    return PythonicParser


def _kimi_k2() -> type[ToolCallParser]:
    from .tool_calls.kimi_k2 import KimiK2Parser

    return KimiK2Parser


def _glm45() -> type[ToolCallParser]:
    from .tool_calls.glm45 import GLM45Parser

    return GLM45Parser


def _qwen3_coder() -> type[ToolCallParser]:
    from .tool_calls.qwen3_coder import Qwen3CoderParser

    return Qwen3CoderParser


TOOL_CALL_PARSERS: dict[str, _Load] = {
    "llama3": _llama3,
    "mistral": _mistral,
    "qwen25": _qwen25,
    "deepseekv3": _deepseekv3,
    "deepseekv31": _deepseekv31,
    "pythonic": _pythonic,
    "kimi_k2": _kimi_k2,
    "glm45": _glm45,
    "qwen3_coder": _qwen3_coder,
}

_THINK = ("<think>", "</think>")
REASONING_FORMATS = {
    "deepseek-r1": ReasoningFormat(*_THINK, begins_open=True),
    "deepseek-v3": ReasoningFormat(*_THINK),
    "qwen3": ReasoningFormat(*_THINK),
    "qwen3-thinking": ReasoningFormat(*_THINK, begins_open=True),
    "glm45": ReasoningFormat(*_THINK),
    "kimi": ReasoningFormat("◁think▷", "◁/think▷"),
}
