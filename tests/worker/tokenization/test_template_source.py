"""What `--chat-template` may be: the models' published formats, files, and SGLang's JSON form."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from worker.tokenization.chat_template import ChatTemplate, ChatTemplateError
from worker.tokenization.template_source import load_chat_template
from worker.tokenization.tokenizer import load_tokenizer

from .tiny_tokenizer import write_tiny_tokenizer

CHAT = [
    {"role": "system", "content": "be brief"},
    {"role": "user", "content": "hi"},
    {"role": "assistant", "content": "yes?"},
    {"role": "user", "content": "why"},
]
JSON: dict[str, Any] = {
    "name": "mine",
    "system": "<|im_start|>system",
    "user": "<|im_start|>user",
    "assistant": "<|im_start|>assistant",
    "sep_style": "CHATML",
    "sep": "<|im_end|>",
    "stop_str": ["<|im_end|>", "<|im_start|>"],
}
CHATML = (
    "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
    "<|im_start|>assistant\nyes?<|im_end|>\n<|im_start|>user\nwhy<|im_end|>\n"
    "<|im_start|>assistant\n"
)


def render(jinja: str, messages: list[dict[str, str]] = CHAT) -> str:
    return ChatTemplate(jinja, {"bos_token": "<s>", "eos_token": "</s>"}).render(messages)


@pytest.mark.parametrize(
    ("name", "prompt"),
    [
        ("chatml", CHATML),
        (
            "llama-2",
            "<s>[INST] <<SYS>>\nbe brief\n<</SYS>>\n\nhi [/INST] yes? </s><s>[INST] why [/INST]",
        ),
        (
            "llama-3-instruct",
            "<s><|start_header_id|>system<|end_header_id|>\n\nbe brief<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\nyes?<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\nwhy<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        ("vicuna_v1.1", "<s>be brief USER: hi ASSISTANT: yes?</s>USER: why ASSISTANT:"),
    ],
)
def test_known_names_are_the_published_formats(name: str, prompt: str) -> None:
    assert render(load_chat_template(name).jinja) == prompt


def test_llama_2_needs_no_system_message() -> None:
    assert render(load_chat_template("llama-2").jinja, CHAT[1:2]) == "<s>[INST] hi [/INST]"


def test_jinja_comes_from_a_file_or_as_it_is(tmp_path: Path) -> None:
    file = tmp_path / "template.jinja"
    file.write_text("from {{ 'file' }}")
    assert load_chat_template(str(file)).jinja == "from {{ 'file' }}"
    assert load_chat_template("{{ messages }}").jinja == "{{ messages }}"


@pytest.mark.parametrize(
    ("changes", "prompt"),
    [
        ({}, CHATML),
        (
            {"sep_style": "ADD_COLON_SINGLE", "system": "S", "user": "U", "assistant": "A'\\😀"},
            "S\nbe brief<|im_end|>U: hi<|im_end|>A'\\😀: yes?<|im_end|>U: why<|im_end|>A'\\😀:",
        ),
        (
            {"sep_style": "ADD_NEW_LINE_SINGLE", "system": "S", "user": "U", "assistant": "A"},
            "S\nbe brief<|im_end|>U\nhi<|im_end|>A\nyes?<|im_end|>U\nwhy<|im_end|>A\n",
        ),
    ],
)
def test_json_form_says_how_each_role_is_written(
    tmp_path: Path, changes: dict[str, Any], prompt: str
) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(JSON | changes))
    source = load_chat_template(str(file))
    assert render(source.jinja) == prompt
    assert source.stops == ("<|im_end|>", "<|im_start|>")


def test_json_form_has_a_system_message_for_chats_without_one(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(JSON | {"system_message": "be {{ nice }}", "stop_str": "X"}))
    source = load_chat_template(str(file))
    assert render(source.jinja, CHAT[1:2]) == (
        "<|im_start|>system\nbe {{ nice }}<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\n"
    )
    assert render(source.jinja) == CHATML
    assert source.stops == ("X",)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("{", "Expecting property name"),
        ("[]", "does not hold a JSON object"),
        (json.dumps(JSON | {"sep_style": "RWKV"}), "sep_style 'RWKV' is not one of CHATML"),
        (json.dumps({**JSON, "user": None}), "user is missing"),
        (json.dumps(JSON | {"sep": 5}), "sep is not a string"),
        (json.dumps(JSON | {"stop_str": [""]}), "stop_str is neither"),
    ],
)
def test_wrong_json_is_refused(tmp_path: Path, content: str, reason: str) -> None:
    file = tmp_path / "mine.json"
    file.write_text(content)
    with pytest.raises(ChatTemplateError, match=reason):
        load_chat_template(str(file))


def test_what_is_neither_a_name_nor_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ChatTemplateError, match=r"lama-2 \(chatml, .*llama-2, .*No such file"):
        load_chat_template("lama-2")


def test_stops_that_are_one_token_are_watched_for_as_tokens(tmp_path: Path) -> None:
    file = tmp_path / "mine.json"
    file.write_text(json.dumps(JSON | {"stop_str": ["<|im_end|>", "User:"]}))
    tokenizer = load_tokenizer(write_tiny_tokenizer(tmp_path), load_chat_template(str(file)))
    assert tokenizer.chat_template is not None
    assert tokenizer.chat_template.stop_token_ids == (2,)
    assert tokenizer.chat_template.stop_strings == ("User:",)


def test_hermes_tells_of_tools_calls_and_results() -> None:
    template = ChatTemplate(load_chat_template("hermes").jinja, {})
    call = {"function": {"name": "now", "arguments": '{"zone": "UTC"}'}}
    tools = [{"type": "function", "function": {"name": "now", "parameters": {}}}]
    messages = [
        *CHAT[:2],
        {"role": "assistant", "content": "wait", "tool_calls": [call, call]},
        {"role": "tool", "content": "1"},
        {"role": "tool", "content": "2"},
    ]
    written = '<tool_call>\n{"name": "now", "arguments": {"zone": "UTC"}}\n</tool_call>'
    rendered = template.render(messages, tools=tools)
    assert rendered.startswith("<|im_start|>system\nbe brief\n\nYou can call functions.")
    assert f"<tools>\n{json.dumps(tools[0])}\n</tools>" in rendered
    assert rendered.endswith(
        f"<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nwait\n{written}\n{written}"
        "<|im_end|>\n<|im_start|>user\n<tool_response>\n1\n</tool_response>\n<tool_response>\n2\n"
        "</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    assert template.render(CHAT) == CHATML
    assert template.render(CHAT[1:2]).startswith("<|im_start|>user\nhi")
