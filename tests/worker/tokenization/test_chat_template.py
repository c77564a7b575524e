"""Chat templates behave as in Hugging Face's libraries, and cannot reach out of their sandbox."""

from __future__ import annotations

import pytest

from worker.tokenization.chat_template import ChatTemplate, ChatTemplateError
from worker.tokenization.tokenizer import Tokenizer

USER = [{"role": "user", "content": "hi"}]


def render(source: str, **variables: object) -> str:
    return ChatTemplate(source, {"bos_token": "<s>"}).render(USER, variables)


def test_special_tokens_messages_and_variables_are_there() -> None:
    source = "{{ bos_token }}{{ messages[0].role }}{{ add_generation_prompt }}{{ thinking }}"
    assert render(source, thinking=False) == "<s>userTrueFalse"


def test_blocks_leave_no_line_ends_behind() -> None:
    source = (
        "{% for message in messages %}\n    {% if true %}\n{{ message.content }}\n{% endif %}\n"
    )
    assert render(source + "{% endfor %}\n") == "hi\n"


def test_generation_blocks_and_loop_controls_work() -> None:
    source = (
        "{% generation %}{% for x in [1, 2, 3] %}{{ x }}{% break %}{% endfor %}{% endgeneration %}"
    )
    assert render(source) == "1"


def test_tojson_does_not_escape_for_html() -> None:
    assert render("{{ {'a': '<é>'} | tojson }}") == '{"a": "<é>"}'


def test_date_is_there() -> None:
    assert render("{{ strftime_now('%Y') }}").isdigit()


def test_template_can_refuse() -> None:
    with pytest.raises(ChatTemplateError, match="refuses these messages: no, thanks"):
        render("{{ raise_exception('no, thanks') }}")


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        ("{{ messages[-1].content }}<end>{{ add_generation_prompt }}", "hi"),
        ("{{ bos_token }}{{ messages[-1].content | trim }}\n", "<s>hi"),
        ("{{ messages[-1].content | length > 9 }}{{ messages[-1].content * 2 }}e", "Truehihi"),
    ],
)
def test_final_message_is_left_open(source: str, prompt: str) -> None:
    template = ChatTemplate(source, {"bos_token": "<s>"})
    assert template.render(USER, continue_final_message=True) == prompt


def test_final_message_that_is_not_in_the_prompt_cannot_be_left_open() -> None:
    with pytest.raises(ChatTemplateError, match="leaves out the last message"):
        ChatTemplate("{{ messages[0].role }}", {}).render(USER, continue_final_message=True)


@pytest.mark.parametrize(
    "source", ["{{ missing.attribute }}", "{{ 1 / 0 }}", "{{ messages[0]['content'] + 1 }}"]
)
def test_template_that_fails_says_so(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="cannot be applied"):
        render(source)


@pytest.mark.parametrize("source", ["{{ ''.__class__.__mro__ }}", "{{ messages.append(1) }}"])
def test_template_is_in_a_sandbox(source: str) -> None:
    with pytest.raises(ChatTemplateError, match="cannot be applied"):
        render(source)


def test_template_with_a_mistake_names_its_line() -> None:
    with pytest.raises(ChatTemplateError, match="line 2"):
        ChatTemplate("\n{% for %}", {})


def test_real_template_adds_its_default_system_prompt(smollm2: Tokenizer) -> None:
    assert smollm2.chat_template is not None
    assert smollm2.chat_template.render(USER) == (
        "<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face"
        "<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    )
