"""The shape of a model, read from a checkpoint's config.json or from GGUF metadata.

Imports no torch.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..distributed.share import head_shares
from ..layers.rope_config import RopeConfig


class ModelConfigError(ValueError):
    """The checkpoint cannot be served: one line for the user that says what is wrong and where."""


@dataclass(frozen=True)
class ModelConfig:
    """All that a decoder is built from.

    `sliding_windows` has one entry a layer: how many tokens a query of that layer sees, itself
    included, or None for all. `eos_token_ids` are those of the checkpoint's configuration and of
    its generation configuration. `weights_dtype` is the dtype that the checkpoint names
    ("bfloat16", …), None where it names none.
    """

    architecture: str
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rms_norm_eps: float
    rope: RopeConfig
    max_position_embeddings: int
    tie_word_embeddings: bool
    qkv_bias: bool
    output_bias: bool
    mlp_bias: bool
    qk_norm: bool
    sliding_windows: tuple[int | None, ...]
    bos_token_id: int | None
    eos_token_ids: tuple[int, ...]
    weights_dtype: str | None = None


def load_model_config(path: str | Path) -> ModelConfig:
    """Read the configuration of the checkpoint at `path`: a folder, or a GGUF file.

    A folder without config.json that holds one GGUF file stands for that file. Raises
    ModelConfigError.
    """
    from . import config_gguf, config_hf

    path = Path(path)
    if (path / "config.json").is_file():
        return config_hf.load(path)
    return config_gguf.load(find_gguf(path))


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


def check_sizes(config: ModelConfig, source: Path) -> ModelConfig:
    """Return `config` if its sizes make a model; ModelConfigError names the first that does not."""
    for name in _SIZES:
        value = getattr(config, name)
        if not is_positive_int(value):
            raise ModelConfigError(f"{source}: {name} must be a positive integer, not {value!r}")
    if config.num_heads % config.num_kv_heads:
        raise ModelConfigError(
            f"{source}: {config.num_heads} attention heads cannot be shared out over "
            f"{config.num_kv_heads} key/value heads"
        )
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
