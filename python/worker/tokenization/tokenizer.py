"""The tokenizer of a model: from tokenizer.json, GGUF, or what transformers can convert."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import processors

from ..gguf_file import GGUFFile
from .chat_template import ChatTemplate
from .gguf_tokenizer import UnsupportedTokenizerError, tokenizer_from_gguf
from .template_source import TemplateSource
from .token_bytes import TokenBytes

# What transformers can make a tokenizer from, when there is no tokenizer.json.
_OLDER_FILES = ("tokenizer.model", "vocab.json", "tekken.json", "tiktoken.model", "vocab.txt")
_OLDER_FILES += ("sentencepiece.bpe.model",)
_SPECIAL_TOKENS = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token")


TextOrPair = str | tuple[str, str]


@dataclass(frozen=True)
class ModelInput:
    """A text, or two as one, for an embedding model: [tokens] both.

    `token_type_ids` tell the texts of a pair apart, 0 and 1; None for a text alone.
    """

    input_ids: list[int]
    token_type_ids: list[int] | None = None


class TokenizerError(ValueError):
    """The tokenizer cannot be loaded; the text is one line for the user."""


@dataclass(frozen=True)
class Tokenizer:
    """`chat_template` is None for models that have none."""

    backend: tokenizers.Tokenizer
    token_bytes: TokenBytes
    chat_template: ChatTemplate | None

    def encode(self, text: str, add_special_tokens: bool = True) -> list[int]:
        """Token ids; `add_special_tokens` puts a beginning-of-text token first, where wanted."""
        return self.backend.encode(text, add_special_tokens=add_special_tokens).ids

    def encode_inputs(
        self, texts: Sequence[TextOrPair], longest: int | None = None
    ) -> list[ModelInput]:
        """Texts or pairs of texts, with all that the model wants around them; on all cores.

        Of more than `longest` tokens, texts lose their ends, the longer of a pair first; what
        stands around them stays.
        """
        encodings = self.backend.encode_batch(list(texts))
        if longest is not None:
            encodings = [
                encoding if len(encoding.ids) <= longest else self._encode_cut(text, longest)
                for text, encoding in zip(texts, encodings, strict=True)
            ]
        return [
            ModelInput(encoding.ids, None if isinstance(text, str) else encoding.type_ids)
            for text, encoding in zip(texts, encodings, strict=True)
        ]

    def _encode_cut(self, text: TextOrPair, longest: int) -> tokenizers.Encoding:
        texts = (text,) if isinstance(text, str) else text
        room = max(longest - self.backend.num_special_tokens_to_add(len(texts) == 2), 0)
        parts = [self.backend.encode(each, add_special_tokens=False) for each in texts]
        lengths = _cut_lengths([len(part.ids) for part in parts], room)
        for part, length in zip(parts, lengths, strict=True):
            part.truncate(length)
        return self.backend.post_process(parts[0], parts[1] if len(parts) == 2 else None)

    def ids_of(self, tokens: Iterable[str]) -> frozenset[int]:
        """Those of `tokens` that are tokens of this vocabulary."""
        ids = map(self.backend.token_to_id, tokens)
        return frozenset(token_id for token_id in ids if token_id is not None)

    def decode(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text of a continuation: a first space stays, as it follows a prompt."""
        pieces = (self.token_bytes.of(token_id, skip_special_tokens) for token_id in token_ids)
        return b"".join(pieces).decode("utf-8", "replace")

    def decode_whole(self, token_ids: list[int], skip_special_tokens: bool = True) -> str:
        """The text that these tokens are the encoding of: SentencePiece's first space is none."""
        return self.backend.decode(token_ids, skip_special_tokens=skip_special_tokens)


def _cut_lengths(lengths: list[int], room: int) -> list[int]:
    """How much stays of one or two texts; the longer one has what an odd `room` is more."""
    if len(lengths) == 1:
        return [room]
    first, other = lengths
    half = (room + (first > other)) // 2
    kept = min(first, max(room - other, half))
    return [kept, room - kept]


@dataclass(frozen=True)
class _Parts:
    backend: tokenizers.Tokenizer
    template: str | None
    special_tokens: dict[str, str]


def load_tokenizer(path: Path, chat_template: TemplateSource | None = None) -> Tokenizer:
    """Load from a folder or a .gguf file; `chat_template` replaces the model's own.

    Raises TokenizerError if there is none or it is of an unknown kind, ChatTemplateError if the
    template is wrong.
    """
    try:
        parts = _load_gguf(path) if path.is_file() else _load_folder(path)
        token_bytes = TokenBytes(parts.backend)
    except KeyError as error:
        raise TokenizerError(f"{path} has no {error.args[0]}, which a tokenizer needs") from error
    except (UnsupportedTokenizerError, OSError, ValueError) as error:
        raise TokenizerError(f"cannot load a tokenizer from {path}: {error}") from error
    source = chat_template or (TemplateSource(parts.template) if parts.template else None)
    template = None if source is None else _compile(source, parts)
    return Tokenizer(parts.backend, token_bytes, template)


def _compile(source: TemplateSource, parts: _Parts) -> ChatTemplate:
    """A stop that is one token is watched for as such: the text may not show it."""
    ids = {stop: parts.backend.token_to_id(stop) for stop in source.stops}
    return ChatTemplate(
        source.jinja,
        parts.special_tokens,
        stop_strings=tuple(stop for stop, token_id in ids.items() if token_id is None),
        stop_token_ids=tuple(token_id for token_id in ids.values() if token_id is not None),
    )


def _load_gguf(path: Path) -> _Parts:
    metadata = GGUFFile(path).metadata
    tokens = metadata.get("tokenizer.ggml.tokens", [])
    special_tokens = {}
    for name, key in (("bos_token", "bos"), ("eos_token", "eos"), ("pad_token", "padding")):
        index = metadata.get(f"tokenizer.ggml.{key}_token_id")
        if index is not None:
            special_tokens[name] = tokens[index]
    template = metadata.get("tokenizer.chat_template")
    return _Parts(tokenizer_from_gguf(metadata), template, special_tokens)


def _load_folder(path: Path) -> _Parts:
    file = path / "tokenizer.json"
    backend = _from_file(file) if file.is_file() else _convert_with_transformers(path)
    backend.no_truncation()
    backend.no_padding()
    config = _read_json(path / "tokenizer_config.json")
    special_tokens = {}
    for name in _SPECIAL_TOKENS:
        token = config.get(name)
        content = token.get("content") if isinstance(token, dict) else token
        if isinstance(content, str):
            special_tokens[name] = content
    if config.get("add_eos_token") is True and "eos_token" in special_tokens:
        _end_texts_with(special_tokens["eos_token"], backend)
    return _Parts(backend, _template_of(path, config), special_tokens)


def _end_texts_with(token: str, backend: tokenizers.Tokenizer) -> None:
    """Have `token` after each text, where the file itself adds at most a first one.

    Embedding models that pool the last token were trained with it; transformers add it, too.
    """
    first = backend.encode("").ids
    token_id = backend.token_to_id(token)
    if token_id is None or token_id in first or len(first) > 1:
        return
    before = [str(backend.id_to_token(each)) for each in first]
    special = [*zip(before, first, strict=True), (token, token_id)]
    backend.post_processor = processors.TemplateProcessing(
        single=[*before, "$A", token],
        pair=[*before, "$A", token, *before, "$B", token],
        special_tokens=special,
    )


def _from_file(file: Path) -> tokenizers.Tokenizer:
    try:
        return tokenizers.Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing narrower
        raise ValueError(f"{file.name} is not valid: {error}") from error


def _convert_with_transformers(path: Path) -> tokenizers.Tokenizer:
    """For folders with older files alone. Imports torch, which takes seconds."""
    if not any((path / name).is_file() for name in _OLDER_FILES):
        raise ValueError(f"there is no tokenizer.json, nor any of {', '.join(_OLDER_FILES)}")
    from transformers import AutoTokenizer

    try:
        converted = AutoTokenizer.from_pretrained(str(path))
    except Exception as error:  # it raises whatever the missing or broken file led to
        reason = str(error).strip().split("\n", 1)[0]
        raise ValueError(f"there is no tokenizer.json, and transformers says: {reason}") from error
    backend = getattr(converted, "backend_tokenizer", None)
    if not isinstance(backend, tokenizers.Tokenizer):
        raise UnsupportedTokenizerError(
            "there is no tokenizer.json, and none can be made from what there is"
        )
    return backend


def _template_of(path: Path, config: dict[str, Any]) -> str | None:
    """A file of its own goes before the configuration; of several, the one named 'default'."""
    file = path / "chat_template.jinja"
    if file.is_file():
        return file.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):
        return next((entry["template"] for entry in template if entry["name"] == "default"), None)
    return template


def _read_json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_bytes())
    except ValueError as error:
        raise ValueError(f"{file.name} is not valid JSON: {error}") from error
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} does not hold a JSON object")
    return content
