"""The shape of a model, read from a checkpoint's config.json or from GGUF metadata.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeVar

from ..distributed.share import head_shares
from ..layers.rope_config import RopeConfig


class ModelConfigError(ValueError):
    """The checkpoint cannot be served: one line for the user that says what is wrong and where."""


@dataclass(frozen=True)
class Pooling:
    """How a model that does not generate makes one vector of a text.

    `mode`: of the hidden state of its "last" token, of that of its first ("cls"), or of the "mean"
    of all. A model with `labels` is a classifier, whose head turns that into a logit for each of
    them; without, it is an embedding, of length 1 if `normalize`. `max_tokens` is the longest text
    that the model was made for, if that is less than its positions.
    """

    mode: Literal["last", "cls", "mean"]
    normalize: bool = False
    labels: tuple[str, ...] = ()
    max_tokens: int | None = None


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """What the configurations of all models have.

    `eos_token_ids` are those of the checkpoint's configuration and of its generation configuration.
    `weights_dtype` is the dtype that the checkpoint names ("bfloat16", …), None where it names
    none. Where attention is not `is_causal`, each token sees the whole text. `pooling` is None for
    a model that generates.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    max_position_embeddings: int
    is_causal: bool = True
    pooling: Pooling | None = None
    bos_token_id: int | None = None
    eos_token_ids: tuple[int, ...] = ()
    weights_dtype: str | None = None

    @property
    def longest_text(self) -> int | None:
        """Tokens beyond which the model cannot go at all; None if rope goes on."""
        return None

    @property
    def context_length(self) -> int:
        """The longest text unless the user says otherwise, in tokens."""
        longest = self.max_position_embeddings
        trained = None if self.pooling is None else self.pooling.max_tokens
        return longest if trained is None else min(longest, trained)

    @property
    def reuses_prefixes(self) -> bool:
        """Whether a text can do with what is left of another one that begins alike: not if its
        vector needs the hidden states of its beginning.
        """
        return self.is_causal and (self.pooling is None or self.pooling.mode == "last")

    @property
    def token_types(self) -> int:
        """How many types of token the model tells apart, by their `token_type_ids`."""
        return 1


@dataclass(frozen=True, kw_only=True)
class DecoderConfig(ModelConfig):
    """A decoder of the Llama family.

    `sliding_windows` has one entry a layer: how many tokens a query of that layer sees, itself
    included, or None for all.
    """

    rms_norm_eps: float
    rope: RopeConfig
    tie_word_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sliding_windows: tuple[int | None, ...]

    @property
    def longest_text(self) -> int | None:
        return self.max_position_embeddings if self.rope.kind == "dynamic" else None


@dataclass(frozen=True, kw_only=True)
class EncoderConfig(ModelConfig):
    """An encoder of the BERT family. Its table of positions begins with `position_offset` unused
    rows; `max_position_embeddings` counts the others.
    """

    layer_norm_eps: float
    activation: str
    type_vocab_size: int
    position_offset: int

    @property
    def longest_text(self) -> int | None:
        return self.max_position_embeddings

    @property
    def token_types(self) -> int:
        return self.type_vocab_size


def load_model_config(path: str | Path, *, is_embedding: bool = False) -> ModelConfig:
    """Read the configuration of the checkpoint at `path`: a folder, or a GGUF file.

    A folder without config.json that holds one GGUF file stands for that file. With `is_embedding`
    a model that generates is taken for an embedding model. Raises ModelConfigError.
    """
    from . import config_gguf, config_hf

    path = Path(path)
    if (path / "config.json").is_file():
        return config_hf.load(path, is_embedding)
    return config_gguf.load(find_gguf(path), is_embedding)


def find_gguf(path: str | Path) -> Path:
    """The GGUF file that `path` is or holds.

    Raises ModelConfigError if there is none, or more than one.
    """
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise ModelConfigError(f"{path}: no such file or folder")
    found = sorted(path.glob("*.gguf"))
    if not found:
        raise ModelConfigError(f"{path}: no config.json and no .gguf file in this folder")
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise ModelConfigError(f"{path}: several GGUF files ({names}): name the one to serve")
    return found[0]


C = TypeVar("C", bound=ModelConfig)

_SIZES = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_layers",
    "num_heads",
    "num_kv_heads",
    "head_dim",
    "max_position_embeddings",
)


def check_config(config: C, source: Path) -> C:
    """Return `config` if it makes a model; ModelConfigError says what does not."""
    for name in _SIZES:
        value = getattr(config, name)
        if not is_positive_int(value):
            raise ModelConfigError(f"{source}: {name} must be a positive integer, not {value!r}")
    if config.num_heads % config.num_kv_heads:
        raise ModelConfigError(
            f"{source}: {config.num_heads} attention heads cannot be shared out over "
            f"{config.num_kv_heads} key/value heads"
        )
    if config.pooling is None and not config.is_causal:
        raise ModelConfigError(
            f"{source}: attention is not causal: each token sees those after it, and nothing can "
            "be generated; --is-embedding serves it as an embedding model"
        )
    if not isinstance(config, DecoderConfig):
        return config
    if len(config.sliding_windows) != config.num_layers:
        raise ModelConfigError(
            f"{source}: layer_types names {len(config.sliding_windows)} layers, "
            f"num_hidden_layers says {config.num_layers}"
        )
    if config.head_dim % 2:
        raise ModelConfigError(f"{source}: head_dim must be even for rope, not {config.head_dim}")
    return config


def check_divisible(config: ModelConfig, ranks: int) -> None:
    """Raise ModelConfigError if so many tensor-parallel ranks cannot divide the model."""
    if ranks > 1 and isinstance(config, EncoderConfig):
        raise ModelConfigError(f"--tp-size {ranks}: {config.architecture} runs on one device only")
    try:
        head_shares(config.num_heads, config.num_kv_heads, 0, ranks)
    except ValueError as error:
        raise ModelConfigError(f"--tp-size {ranks}: {error}") from None
    if config.intermediate_size % ranks:
        raise ModelConfigError(
            f"--tp-size {ranks}: an intermediate size of {config.intermediate_size} cannot be "
            f"divided among {ranks} ranks"
        )


def is_positive_int(value: object) -> bool:
    """True for a positive integer; a bool is none."""
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
