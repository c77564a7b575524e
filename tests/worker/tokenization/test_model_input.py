"""Texts and pairs for embedding models: special tokens, the two texts of a pair, cuts."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from tokenizers import Tokenizer as Backend

from worker.tokenization.tokenizer import ModelInput, Tokenizer, load_tokenizer

from .tiny_tokenizer import write_tiny_tokenizer
from .wordpiece_tokenizer import write_wordpiece_tokenizer

CLS, SEP, THE, CAT, DOG, CAR = 2, 3, 5, 6, 7, 8


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wordpiece_tokenizer(tmp_path_factory.mktemp("wordpiece"))


@pytest.fixture(scope="module")
def wordpiece(folder: Path) -> Tokenizer:
    return load_tokenizer(folder)


def test_a_text_stands_between_special_tokens(wordpiece: Tokenizer) -> None:
    texts = ["", " ".join(["cat"] * 20)]
    expected = [ModelInput([CLS, SEP]), ModelInput([CLS, *[CAT] * 20, SEP])]
    assert wordpiece.encode_inputs(texts) == expected
    assert wordpiece.encode_inputs([]) == []


def test_the_texts_of_a_pair_have_types(wordpiece: Tokenizer) -> None:
    (pair,) = wordpiece.encode_inputs([("The cat", "dog car car")])
    assert pair.input_ids == [CLS, THE, CAT, SEP, DOG, CAR, CAR, SEP]
    assert pair.token_type_ids == [0, 0, 0, 0, 1, 1, 1, 1]


def test_cuts_are_those_of_the_tokenizers_library(wordpiece: Tokenizer, folder: Path) -> None:
    reference = Backend.from_file(str(folder / "tokenizer.json"))
    reference.no_padding()
    chance = random.Random(5)
    texts = [" ".join(["cat"] * chance.randrange(12)) for _ in range(100)]
    pairs = [(text, " ".join(["dog"] * chance.randrange(12))) for text in texts]
    for longest in range(3, 20):
        reference.enable_truncation(longest)
        expected = [ModelInput(reference.encode(text).ids) for text in texts]
        assert wordpiece.encode_inputs(texts, longest) == expected
        encodings = [reference.encode(*pair) for pair in pairs]
        expected = [ModelInput(encoding.ids, encoding.type_ids) for encoding in encodings]
        assert wordpiece.encode_inputs(pairs, longest) == expected


def test_wordpiece_tokens_have_a_text(wordpiece: Tokenizer) -> None:
    ids = wordpiece.encode("cats sat")
    assert wordpiece.decode(ids) == " cats sat"
    assert wordpiece.decode(ids, skip_special_tokens=False) == " [CLS] cats sat [SEP]"
    assert wordpiece.decode_whole(ids) == "cats sat"


def test_a_text_ends_with_the_token_that_the_configuration_adds(tmp_path: Path) -> None:
    folder = write_tiny_tokenizer(tmp_path)
    config = {"eos_token": "<|im_end|>", "add_eos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(folder)
    (the,) = tokenizer.encode(" the", add_special_tokens=False)
    (alone,) = tokenizer.encode_inputs([" the"])
    (pair,) = tokenizer.encode_inputs([(" the", " the")])
    assert alone == ModelInput([the, 2])
    assert pair.input_ids == [the, 2, the, 2]


@pytest.mark.parametrize("add_eos_token", [True, False])
def test_a_token_that_the_file_adds_is_not_added_again(tmp_path: Path, add_eos_token: bool) -> None:
    folder = write_wordpiece_tokenizer(tmp_path)
    config = {"eos_token": "[SEP]", "add_eos_token": add_eos_token}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_tokenizer(folder).encode("the cat") == [CLS, THE, CAT, SEP]


def test_what_stands_before_texts_stays(tmp_path: Path) -> None:
    folder = write_wordpiece_tokenizer(tmp_path)
    config = {"eos_token": "[MASK]", "add_eos_token": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    content = json.loads((folder / "tokenizer.json").read_text())
    content["post_processor"]["single"].pop()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    assert load_tokenizer(folder).encode("the cat") == [CLS, THE, CAT, 4]
