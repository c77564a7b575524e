"""Prompts as embeddings, as a program has them: lists, NumPy arrays, tensors of any device."""

from __future__ import annotations

from typing import Any

import torch

from worker.messages import InputEmbeds
from worker.tokenization.input_embeds import pack_embeddings


def embedded_prompts(given: Any, hidden_size: int) -> tuple[list[InputEmbeds], bool]:
    """Each prompt of `given`, and whether it was one by itself, [tokens, hidden size], not a list.

    Raises ValueError for anything but finite numbers of these shapes.
    """
    try:
        if not len(given):
            raise ValueError("the prompt has no tokens")
        single = torch.as_tensor(given[0]).ndim == 1
        prompts = [_tensor(rows, hidden_size) for rows in ([given] if single else given)]
        return [pack_embeddings(tensor.numpy()) for tensor in prompts], single
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"input_embeds: {error}") from error


def _tensor(rows: Any, hidden_size: int) -> torch.Tensor:
    tensor = torch.as_tensor(rows, dtype=torch.float32, device="cpu").detach()
    if tensor.ndim != 2 or tensor.shape[1] != hidden_size:
        raise ValueError(f"they must be [tokens, {hidden_size}] numbers, and not {[*tensor.shape]}")
    return tensor
