"""A `tokenizers.Tokenizer` built from the metadata of a GGUF file, without transformers or torch.

Two kinds of vocabulary exist in the Llama family: byte-level BPE ("gpt2"), whose splitting rules
have a name in `tokenizer.ggml.pre`, and SentencePiece BPE with byte fallback ("llama"), which has
scores in the place of merges.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)

_CONTROL = 3
_USER_DEFINED = 4

_LETTERS_AND_SPACES = (
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"  # punctuation, line ends, other spaces
)
_CONTRACTIONS_AND_WORDS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_LLAMA3 = _CONTRACTIONS_AND_WORDS + r"|\p{N}{1,3}" + _LETTERS_AND_SPACES
_QWEN2 = _CONTRACTIONS_AND_WORDS + r"|\p{N}" + _LETTERS_AND_SPACES
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class UnsupportedTokenizerError(ValueError):
    """The tokenizer is of a kind that this version cannot build; one line for the user."""


def _split_by(pattern: str) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _single_digits() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


# The names that llama.cpp gives to splitting rules -> those rules.
_PRE_TOKENIZERS: dict[str, Callable[[], pre_tokenizers.PreTokenizer]] = {
    "default": _gpt2,
    "gpt-2": _gpt2,
    "llama-bpe": lambda: _split_by(_LLAMA3),
    "llama3": lambda: _split_by(_LLAMA3),
    "qwen2": lambda: _split_by(_QWEN2),
    "smollm": _single_digits,
    "starcoder": _single_digits,
    "tekken": lambda: _split_by(_TEKKEN),
}
# Vocabularies where a whole word that is a token is taken as such, whatever the merges say.
_WHOLE_WORDS_FIRST = {"llama-bpe", "llama3", "tekken"}
_BOS_BY_DEFAULT = {"llama-bpe", "llama3", "tekken"}


def tokenizer_from_gguf(metadata: dict[str, Any]) -> Tokenizer:
    """Raises UnsupportedTokenizerError if the vocabulary's kind or splitting rules are unknown."""
    kind = metadata.get("tokenizer.ggml.model")
    if kind == "gpt2":
        tokenizer, bos_by_default = _byte_level(metadata)
    elif kind == "llama":
        tokenizer, bos_by_default = _sentencepiece(metadata), True
    else:
        raise UnsupportedTokenizerError(
            f"tokenizer {kind!r} of the GGUF file is not supported ('gpt2' and 'llama' are); "
            "give --tokenizer-path a folder with a tokenizer.json"
        )
    _add_special_tokens(tokenizer, metadata)
    _add_template(tokenizer, metadata, bos_by_default)
    return tokenizer


def _byte_level(metadata: dict[str, Any]) -> tuple[Tokenizer, bool]:
    name = metadata.get("tokenizer.ggml.pre", "default")
    if name not in _PRE_TOKENIZERS:
        raise UnsupportedTokenizerError(
            f"pre-tokenizer {name!r} of the GGUF file is not known; give --tokenizer-path a folder "
            "with a tokenizer.json"
        )
    vocabulary = {token: index for index, token in enumerate(metadata["tokenizer.ggml.tokens"])}
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    model = models.BPE(vocab=vocabulary, merges=merges, ignore_merges=name in _WHOLE_WORDS_FIRST)
    tokenizer = Tokenizer(model)
    if name == "qwen2":
        tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = _PRE_TOKENIZERS[name]()
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer, name in _BOS_BY_DEFAULT


def _sentencepiece(metadata: dict[str, Any]) -> Tokenizer:
    tokens: list[str] = metadata["tokenizer.ggml.tokens"]
    scores: list[float] = metadata["tokenizer.ggml.scores"]
    vocabulary = {token: index for index, token in enumerate(tokens)}
    unknown = metadata.get("tokenizer.ggml.unknown_token_id", 0)
    model = models.BPE(
        vocab=vocabulary,
        merges=_merges_from_scores(vocabulary, scores),
        unk_token=tokens[unknown],
        fuse_unk=True,
        byte_fallback=True,
    )
    tokenizer = Tokenizer(model)
    spaces = normalizers.Replace(" ", "▁")
    to_text = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    if metadata.get("tokenizer.ggml.add_space_prefix", True):
        tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces])
        to_text.append(decoders.Strip(" ", 1, 0))
    else:
        tokenizer.normalizer = spaces
    tokenizer.decoder = decoders.Sequence(to_text)
    return tokenizer


def _merges_from_scores(vocabulary: dict[str, int], scores: list[float]) -> list[tuple[str, str]]:
    """SentencePiece joins the pair of the highest score; BPE, the earliest in its list."""
    ranked = []
    for token, index in vocabulary.items():
        for cut in range(1, len(token)):
            left, right = token[:cut], token[cut:]
            if left in vocabulary and right in vocabulary:
                rank = (-scores[index], vocabulary[left], vocabulary[right])
                ranked.append((rank, left, right))
    ranked.sort()
    return [(left, right) for _, left, right in ranked]


def _add_special_tokens(tokenizer: Tokenizer, metadata: dict[str, Any]) -> None:
    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata.get("tokenizer.ggml.token_type", [])
    added = zip(tokens, kinds, strict=False)
    special, plain = [], []
    for token, kind in added:
        if kind == _CONTROL:
            special.append(AddedToken(token, special=True, normalized=False))
        elif kind == _USER_DEFINED:
            plain.append(AddedToken(token, special=False, normalized=False))
    tokenizer.add_special_tokens(special)
    tokenizer.add_tokens(plain)


def _add_template(tokenizer: Tokenizer, metadata: dict[str, Any], bos_by_default: bool) -> None:
    """Make `encode` put the tokens around a text that the model was trained to see there."""
    tokens = metadata["tokenizer.ggml.tokens"]
    around = {
        "bos": metadata.get("tokenizer.ggml.add_bos_token", bos_by_default),
        "eos": metadata.get("tokenizer.ggml.add_eos_token", False),
    }
    ids = {
        name: metadata[f"tokenizer.ggml.{name}_token_id"]
        for name, wanted in around.items()
        if wanted and f"tokenizer.ggml.{name}_token_id" in metadata
    }
    if not ids:
        return
    before = [tokens[ids["bos"]]] if "bos" in ids else []
    after = [tokens[ids["eos"]]] if "eos" in ids else []
    tokenizer.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", *after],
        special_tokens=[(tokens[index], index) for index in sorted(set(ids.values()))],
    )
