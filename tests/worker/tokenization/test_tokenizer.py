"""Tokenizers from folders and GGUF files give the ids that the model was trained with."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend

from worker.tokenization.gguf_tokenizer import UnsupportedTokenizerError, tokenizer_from_gguf
from worker.tokenization.template_source import TemplateSource
from worker.tokenization.token_bytes import TokenBytes
from worker.tokenization.tokenizer import ModelInput, Tokenizer, TokenizerError, load_tokenizer

from .sentencepiece_tokenizer import sentencepiece_metadata, sentencepiece_tokenizer
from .tiny_tokenizer import write_tiny_tokenizer
from .wordpiece_tokenizer import SPECIAL as WORDPIECE_SPECIAL
from .wordpiece_tokenizer import WORDS as WORDPIECE_WORDS

TEXTS = [
    "Hello world",
    "  leading  and   trailing  ",
    "tabs\t\tand\n\n\nnewlines \r\n x",
    "def f(x):\n    return {'a': [x + y for y in range(z)]}  # ok",
    "naïve café Ünïcode ß",
    "日本語のテキスト 漢字 かな",
    "emoji 😀👩‍👩‍👧‍👦🏳️‍🌈",
    "العربية עברית mixed",
    "I'm you're DON'T it's",
    "<|im_start|>user\nhi<|im_end|>\n",
    "https://x.y/z?a=b&c=d 1234 3.14159",
    "\x00\x01 control \u200b",
    "",
]


def test_folder_gives_tokens_template_and_special_tokens(tiny: Tokenizer) -> None:
    assert tiny.encode(" the") == [tiny.backend.token_to_id("Ġthe")]
    assert tiny.encode("<|im_end|>") == [2]
    assert tiny.chat_template is not None


def test_template_file_goes_before_the_configuration(tmp_path: Path) -> None:
    folder = write_tiny_tokenizer(tmp_path)
    (folder / "chat_template.jinja").write_text("{{ bos_token }}{{ eos_token }} from the file")
    template = load_tokenizer(folder).chat_template
    assert template is not None
    assert template.render([]) == "<|im_start|><|im_end|> from the file"


def test_default_one_of_several_templates_is_taken(tmp_path: Path) -> None:
    folder = write_tiny_tokenizer(tmp_path)
    templates = [{"name": "tool_use", "template": "t"}, {"name": "default", "template": "d"}]
    (folder / "tokenizer_config.json").write_text(json.dumps({"chat_template": templates}))
    template = load_tokenizer(folder).chat_template
    assert template is not None
    assert template.render([]) == "d"


def test_given_template_replaces_the_models_own(tiny_folder: Path) -> None:
    template = load_tokenizer(tiny_folder, TemplateSource("{{ 'mine' }}")).chat_template
    assert template is not None
    assert template.render([]) == "mine"


def test_truncation_and_padding_of_the_file_are_turned_off(tmp_path: Path) -> None:
    folder = write_tiny_tokenizer(tmp_path)
    backend = Backend.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(4)
    backend.enable_padding(length=8)
    backend.save(str(folder / "tokenizer.json"))
    assert len(load_tokenizer(folder).encode("abcdef")) == 6


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "tokenizer.json is not valid"),
        ('{"version": "1.0"}', "tokenizer.json is not valid"),
    ],
)
def test_broken_folder_is_one_clear_line(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(TokenizerError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_folder_without_a_tokenizer_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(TokenizerError, match=r"there is no tokenizer\.json") as caught:
        load_tokenizer(tmp_path)
    assert "\n" not in str(caught.value)


def test_older_files_are_converted_by_transformers(tmp_path: Path) -> None:
    folder = write_tiny_tokenizer(tmp_path)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(" ".join(merge) for merge in model["merges"]))
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "GPT2Tokenizer"}')
    tokenizer = load_tokenizer(folder)
    assert tokenizer.encode(" the") == [model["vocab"]["Ġthe"]]
    assert tokenizer.decode(tokenizer.encode("é 😀")) == "é 😀"


def test_an_older_vocabulary_of_wordpiece_is_converted_by_transformers(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("\n".join([*WORDPIECE_SPECIAL, *WORDPIECE_WORDS]))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    (pair,) = load_tokenizer(tmp_path).encode_inputs([("the cat", "dogs")])
    assert pair == ModelInput([2, 5, 6, 3, 7, 10, 3], [0, 0, 0, 0, 1, 1, 1])


def test_decoder_of_another_family_is_refused(tmp_path: Path) -> None:
    folder = write_tiny_tokenizer(tmp_path)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    content["decoder"] = {"type": "BPEDecoder", "suffix": "</w>"}
    file.write_text(json.dumps(content))
    with pytest.raises(TokenizerError, match=r"decoder \(BPEDecoder\) is not supported"):
        load_tokenizer(folder)


def test_real_gguf_gives_the_ids_of_transformers(smollm2: Tokenizer, smollm2_file: Path) -> None:
    from transformers import AutoTokenizer

    reference = AutoTokenizer.from_pretrained(smollm2_file.parent, gguf_file=smollm2_file.name)
    for text in TEXTS:
        assert smollm2.encode(text) == reference.encode(text), text
        assert smollm2.decode(smollm2.encode(text), skip_special_tokens=False) == text


def test_digits_of_every_kind_stand_alone(smollm2: Tokenizer) -> None:
    """Transformers' conversion joins the space to the fraction; the model's own rules do not."""
    tokens = [smollm2.backend.id_to_token(each) for each in smollm2.encode("² ½ 42")]
    assert tokens == ["Â²", "Ġ", "Â½", "Ġ", "4", "2"]


@pytest.mark.parametrize(
    ("pre", "text", "expected"),
    [
        ("llama-bpe", "12345 x", ["123", "45", "Ġx"]),
        ("qwen2", "12 x", ["1", "2", "Ġx"]),
        ("smollm", "a 12", ["a", "Ġ", "1", "2"]),
        ("gpt-2", "12345 x", ["12345", "Ġx"]),
        ("tekken", "aB12", ["a", "B", "1", "2"]),
        ("llama-bpe", "it'S ok\n\n", ["it", "'S", "Ġok", "ĊĊ"]),
        ("gpt-2", "it's  ok", ["it", "'s", "Ġ", "Ġok"]),
    ],
)
def test_splitting_rules_have_their_names(pre: str, text: str, expected: list[str]) -> None:
    tokens = ["a", "Ġ"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.merges": [],
    }
    pre_tokenizer = tokenizer_from_gguf(metadata).pre_tokenizer
    assert pre_tokenizer is not None
    assert [piece for piece, _ in pre_tokenizer.pre_tokenize_str(text)] == expected


def test_unknown_kinds_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedTokenizerError, match="'bert'"):
        tokenizer_from_gguf({"tokenizer.ggml.model": "bert"})
    with pytest.raises(UnsupportedTokenizerError, match="'strange'"):
        tokenizer_from_gguf({"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "strange"})


def test_sentencepiece_joins_the_highest_score_first() -> None:
    tokenizer = sentencepiece_tokenizer()
    assert tokenizer.encode("the").tokens == ["▁the"]
    assert tokenizer.encode("abc").tokens == ["▁", "a", "bc"]
    assert tokenizer.encode("é").tokens == ["▁", "<0xC3>", "<0xA9>"]


def test_sentencepiece_begins_with_bos_unless_told_otherwise() -> None:
    for add_bos, expected in ((None, "<s>"), (True, "<s>"), (False, "▁")):
        tokenizer = tokenizer_from_gguf(sentencepiece_metadata(add_bos=add_bos))
        assert tokenizer.encode(" e").tokens[0] == expected


def test_llama_3_begins_with_bos_and_single_tokens_do_not_need_merges() -> None:
    tokens = ["<|begin|>", "a", "b", "ab"]
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "llama-bpe",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3, 1, 1, 1],
        "tokenizer.ggml.merges": [],
        "tokenizer.ggml.bos_token_id": 0,
    }
    tokenizer = tokenizer_from_gguf(metadata)
    assert tokenizer.encode("ab").ids == [0, 3]
    assert tokenizer.encode("ab", add_special_tokens=False).ids == [3]
    assert tokenizer.decode([0, 3]) == "ab"


@pytest.mark.parametrize("text", ["the", " the", "a é bc", ""])
def test_whole_text_comes_back_without_the_space_that_sentencepiece_puts_first(text: str) -> None:
    backend = sentencepiece_tokenizer()
    tokenizer = Tokenizer(backend, TokenBytes(backend), chat_template=None)
    assert tokenizer.decode_whole(tokenizer.encode(text)) == text


def test_whole_text_shows_special_tokens_when_asked_for(tiny: Tokenizer) -> None:
    ids = [1, *tiny.encode("a é")]
    assert tiny.decode_whole(ids) == "a é"
    assert tiny.decode_whole(ids, skip_special_tokens=False) == "<|im_start|>a é"
    assert tiny.decode_whole([5000]) == ""
