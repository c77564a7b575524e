"""What `--chat-template` stands for: a known name, a Jinja file, SGLang's JSON form, or Jinja."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .chat_template import ChatTemplateError


@dataclass(frozen=True)
class TemplateSource:
    """A Jinja template, and the texts at which the model's answers end besides its own."""

    jinja: str
    stops: tuple[str, ...] = ()


_CHATML = """\
{% for message in messages %}
{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

# ChatML with tools, as the Hermes and Qwen models were trained on it.
_HERMES = """\
{% set words = messages[0].content if messages[0].role == 'system' else '' %}
{% set turns = messages[1:] if messages[0].role == 'system' else messages %}
{% if words or tools %}
{{ '<|im_start|>system\n' + words }}
{%- if tools %}
{{ '\n\n' if words }}
{{- 'You can call functions. Their signatures are between <tools></tools> tags:\n<tools>\n' }}
{%- for tool in tools %}{{ tool | tojson + '\n' }}{% endfor %}
{{ '</tools>\n\nFor each call write an object with the name and the arguments of the function:\n' }}
{{- '<tool_call>\n{"name": ..., "arguments": {...}}\n</tool_call>' }}
{%- endif %}
{{ '<|im_end|>\n' }}
{%- endif %}
{% for message in turns %}
{% if message.role == 'tool' %}
{% if loop.first or loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
{{ '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
{%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
{% else %}
{{ '<|im_start|>' + message.role + '\n' + (message.content or '') }}
{%- for call in message.tool_calls or [] %}
{{ '\n' if message.content or not loop.first }}{{ '<tool_call>\n{"name": "' + call.function.name }}
{{- '", "arguments": ' + call.function.arguments + '}\n</tool_call>' }}
{%- endfor %}
{{ '<|im_end|>\n' }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"""

_LLAMA_2 = """\
{% set system = messages[0].content if messages[0].role == 'system' %}
{% set turns = messages[1:] if messages[0].role == 'system' else messages %}
{% for message in turns %}
{% if message.role == 'user' %}
{{ bos_token }}{{ '[INST] ' }}
{%- if loop.first and system %}{{ '<<SYS>>\n' + system + '\n<</SYS>>\n\n' }}{% endif %}
{{- message.content + ' [/INST]' }}
{%- else %}
{{ ' ' + message.content + ' ' }}{{ eos_token }}
{%- endif %}
{% endfor %}"""

_LLAMA_3 = """\
{{ bos_token }}
{%- for message in messages %}
{{ '<|start_header_id|>' + message.role + '<|end_header_id|>\n\n' }}
{{- message.content + '<|eot_id|>' }}
{%- endfor %}
{% if add_generation_prompt %}
{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}"""

_VICUNA = """\
{{ bos_token }}
{%- for message in messages %}
{% if message.role == 'system' %}{{ message.content + ' ' }}
{%- elif message.role == 'user' %}{{ 'USER: ' + message.content + ' ' }}
{%- else %}{{ 'ASSISTANT: ' + message.content }}{{ eos_token }}
{%- endif %}
{% endfor %}
{% if add_generation_prompt %}{{ 'ASSISTANT:' }}{% endif %}"""

_KNOWN = {
    "chatml": TemplateSource(_CHATML, ("<|im_end|>", "<|endoftext|>")),
    "hermes": TemplateSource(_HERMES, ("<|im_end|>", "<|endoftext|>")),
    "llama-2": TemplateSource(_LLAMA_2),
    "llama-3-instruct": TemplateSource(_LLAMA_3, ("<|eot_id|>", "<|end_of_text|>")),
    "vicuna_v1.1": TemplateSource(_VICUNA),
}


def load_chat_template(given: str) -> TemplateSource:
    """Raises ChatTemplateError if it is neither a known name, nor a file, nor Jinja itself."""
    if given in _KNOWN:
        return _KNOWN[given]
    if "{" in given or "\n" in given:
        return TemplateSource(given)
    path = Path(given).expanduser()
    try:
        content = path.read_text(encoding="utf-8")
        return _from_json(content) if path.suffix == ".json" else TemplateSource(content)
    except (OSError, ValueError) as error:
        known = ", ".join(_KNOWN)
        raise ChatTemplateError(f"chat template {given} ({known}, or a file): {error}") from error


# ===== SGLang's JSON form =====

# How a role and its words are written: between them, after sep, and after the role that is to
# speak next.
_STYLES = {
    "CHATML": ("\n", "\n", "\n"),
    "ADD_NEW_LINE_SINGLE": ("\n", "", "\n"),
    "ADD_COLON_SINGLE": (": ", "", ":"),
}


def _from_json(content: str) -> TemplateSource:
    """`system`, `user` and `assistant` are what stands before the words of each. ValueError says
    what is wrong.
    """
    form = json.loads(content)
    if not isinstance(form, dict):
        raise ValueError("it does not hold a JSON object")
    style = form.get("sep_style")
    if style not in _STYLES:
        raise ValueError(f"sep_style {style!r} is not one of {', '.join(_STYLES)}")
    system, user, assistant = (_string(form, name) for name in ("system", "user", "assistant"))
    between, after, before_answer = _STYLES[style]
    end = _string(form, "sep", "\n") + after
    default = _string(form, "system_message", "")
    jinja = (
        "{% set roles = "
        f"{{'system': {system + chr(10)!r}, 'user': {user + between!r}, "
        f"'assistant': {assistant + between!r}}} %}}"
        f"{{% if {default!r} and messages[0].role != 'system' %}}"
        f"{{{{ roles.system + {default!r} + {end!r} }}}}{{% endif %}}"
        "{% for message in messages %}"
        f"{{{{ roles[message.role] + message.content + {end!r} }}}}"
        "{% endfor %}"
        f"{{% if add_generation_prompt %}}{{{{ {assistant + before_answer!r} }}}}{{% endif %}}"
    )
    stops = form.get("stop_str") or []
    stops = [stops] if isinstance(stops, str) else stops
    if not isinstance(stops, list) or not all(isinstance(stop, str) and stop for stop in stops):
        raise ValueError("stop_str is neither a string nor a list of strings")
    return TemplateSource(jinja, tuple(stops))


def _string(form: dict[str, Any], name: str, default: str | None = None) -> str:
    value = form.get(name, default)
    if not isinstance(value, str):
        raise ValueError(f"{name} is {'missing' if value is None else 'not a string'}")
    return value
