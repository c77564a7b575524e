"""What the start makes of server arguments: sizes of prefill batches and chunks."""

from __future__ import annotations

from pathlib import Path

import pytest

from worker.config import ServerArgs
from worker.models.config import load_model_config
from worker.scheduler.startup import prefill_sizes

from ..checkpoints import make_checkpoint

# batch, chunk and considerate chunk
GENERATES = [(16384, 512, None), (16384, 8192, 2048), (16384, 100, None), (16384, None, None)]
EMBEDS = [(16384, 512, None), (16384, 8192, None), (16384, 100, None), (16384, None, None)]
IS_WHOLE = [(512, None, None), (8192, None, None), (100, None, None), (16384, None, None)]


@pytest.mark.parametrize(
    ("family", "head", "expected"),
    [("llama3", "generate", GENERATES), ("llama3", "embed", EMBEDS), ("bert", "embed", IS_WHOLE)],
)
def test_texts_of_encoders_come_whole_and_nobody_decodes_beside_texts_to_embed(
    family: str, head: str, expected: list, tmp_path: Path
) -> None:
    config = load_model_config(make_checkpoint(tmp_path, family, head=head))
    arguments = [({}, False), ({}, True)]
    arguments += [({"chunked_prefill_size": size}, True) for size in (100, -1)]
    found = [prefill_sizes(ServerArgs(**args), config, on_gpu) for args, on_gpu in arguments]
    assert found == expected
