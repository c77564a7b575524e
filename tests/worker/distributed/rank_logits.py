"""One rank of two: computes logits of checkpoints, together with a process like itself.

Arguments: rank, rendezvous (a listening socket's descriptor for rank 0, its port for rank 1),
output file, checkpoints. Writes {checkpoint: (logits, bytes of this rank's weights)}.
"""

from __future__ import annotations

import socket
import sys

import torch

from worker.distributed.tensor_parallel import TensorParallel
from worker.models.config import load_model_config
from worker.models.registry import build_model
from worker.runtime.weights import load_weights

from ..models.dense_attention import logits

TOKENS = torch.randint(160, (40,), generator=torch.Generator().manual_seed(1)).tolist()


def main() -> None:
    rank, rendezvous, output, *checkpoints = sys.argv[1:]
    torch.set_num_threads(1)
    place = int(rendezvous) if int(rank) else socket.socket(fileno=int(rendezvous))
    parallel = TensorParallel.join(int(rank), 2, place, torch.device("cpu"))
    found = {}
    for checkpoint in checkpoints:
        config = load_model_config(checkpoint)
        model = build_model(config, torch.float32, parallel=parallel)
        load_weights(model, checkpoint)
        found[checkpoint] = (logits(model, TOKENS), model.weights_bytes())
    found["smallest"] = parallel.min(int(rank) + 5, torch.device("cpu"))
    parallel.leave()
    torch.save(found, output)


if __name__ == "__main__":
    main()
