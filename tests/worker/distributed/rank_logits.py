"""One rank of two: computes logits of checkpoints, together with a process like itself.

Arguments: rank, rendezvous (a listening socket's descriptor for rank 0, its port for rank 1),
output file, checkpoints, of which the first two are alike but for their weights. Writes
{checkpoint: (logits, bytes of this rank's weights)}, and what came of other collectives.
"""

from __future__ import annotations

import socket
import sys
from pathlib import Path

import torch

from worker.distributed.share import Share
from worker.distributed.tensor_parallel import OtherRankError, TensorParallel
from worker.layers.slots import WeightSlot
from worker.models.config import load_model_config
from worker.models.registry import build_model
from worker.runtime.weights import Checkpoint, WeightLoadError, load_weights, replace_weights

from ..models.dense_attention import logits

CPU = torch.device("cpu")
TOKENS = torch.randint(160, (40,), generator=torch.Generator().manual_seed(1)).tolist()


def main() -> None:
    rank, rendezvous, output, *checkpoints = sys.argv[1:]
    torch.set_num_threads(1)
    place = int(rendezvous) if int(rank) else socket.socket(fileno=int(rendezvous))
    parallel = TensorParallel.join(int(rank), 2, place, CPU)
    found = {}
    for checkpoint in checkpoints:
        config = load_model_config(checkpoint)
        model = build_model(config, torch.float32, parallel=parallel)
        load_weights(model, checkpoint)
        found[checkpoint] = (logits(model, TOKENS), model.weights_bytes())
    found["smallest"] = parallel.min(int(rank) + 5, CPU)
    found["assembled"] = _assembled(parallel)
    found["failures"] = [_failure(parallel, who) for who in ((), (0,), (1,), (0, 1))]
    found["replaced"] = _replaced(parallel, *checkpoints[:2], break_on=1)
    parallel.leave()
    torch.save(found, output)


def _assembled(parallel: TensorParallel) -> list[torch.Tensor]:
    """Of a matrix divided by rows, by columns, and of one that both ranks have whole."""
    whole = torch.arange(15.0).view(5, 3) - 7
    rows, columns = parallel.share(5), parallel.share(3)
    return [
        parallel.assemble(whole[rows.start : rows.stop], rows, 0),
        parallel.assemble(whole[:, columns.start : columns.stop], columns, 1),
        parallel.assemble(whole, Share.whole(5), 0),
    ]


def _failure(parallel: TensorParallel, ranks: tuple[int, ...]) -> str | None:
    """What a rank learns of a work that fails on `ranks`."""
    try:
        with parallel.together(CPU):
            if parallel.rank in ranks:
                raise ValueError(f"rank {parallel.rank} could not")
    except (OtherRankError, ValueError) as error:
        return f"{type(error).__name__}: {error}"
    return None


def _replaced(parallel: TensorParallel, old: str, new: str, *, break_on: int) -> tuple[str, bool]:
    """Why `new` is not in the place of `old`, and whether `old` is there again."""
    model = build_model(load_model_config(old), torch.float32, parallel=parallel)
    load_weights(model, old)
    before = logits(model, TOKENS)
    fill, broken = WeightSlot.fill, parallel.rank == break_on

    def fill_or_break(self: WeightSlot, weight: torch.Tensor) -> None:
        nonlocal broken
        if broken and weight.dim() == 1:  # the first norm: the embedding was filled by then
            broken = False
            raise OSError("Input/output error")
        fill(self, weight)

    checkpoints = [Checkpoint(Path(path), "auto", 0) for path in (old, new)]
    WeightSlot.fill = fill_or_break
    try:
        replace_weights(model, *checkpoints, CPU, lambda fraction: None)
    except WeightLoadError as error:
        return str(error), torch.equal(logits(model, TOKENS), before)
    finally:
        WeightSlot.fill = fill
    return "", False


if __name__ == "__main__":
    main()
