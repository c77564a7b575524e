"""The prefix-sharing benchmark measures every part, on a tiny model; groups are what they say."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from worker.attention.base import AttentionSpec

from ...worker.triton_interpreter import allow_loop_bounds, interpret_kernels

allow_loop_bounds()  # or skip all of this

from benchmarks.engine.attention_layer import AttentionLayer, Groups  # noqa: E402

from benchmarks.engine import prefix_sharing  # noqa: E402

TINY = ["--model", "tiny", "--device", "cpu", "--dtype", "float32"]
ENGINE = ["--shrink", "8", "--max-total-tokens", "8192", "--num-threads", "1"]


@pytest.mark.parametrize("groups", [Groups(7, 3, 40, 10), Groups(4, 1, 8, 6), Groups(3, 3, 0, 5)])
def test_members_of_a_group_share_the_slots_of_their_prefix_and_no_others(groups):
    step = groups.decoding()
    lengths = step.seq_lens
    assert ((lengths >= groups.shared + groups.own // 2) & (lengths > groups.shared)).all()
    slots = [step.page_table[s, :length].tolist() for s, length in enumerate(lengths)]
    assert set().union(*slots) == set(range(step.distinct_tokens))
    for s in range(1, groups.sequences):
        common = min(len(slots[s]), len(slots[s - 1]))
        same = np.equal(slots[s][:common], slots[s - 1][:common])
        assert same.sum() == same.argmin() == step.shared_lens[s]


@pytest.fixture
def layer(monkeypatch) -> AttentionLayer:
    interpret_kernels()
    monkeypatch.setattr("worker.attention.triton._LAUNCH_BYTES", 0)  # the least saving is welcome
    decoding = Groups(sequences=6, members=3, shared=192, own=20).decoding()
    spec = AttentionSpec(0, num_heads=4, num_kv_heads=2, head_dim=16, scale=0.25)
    return AttentionLayer(spec, decoding, torch.device("cpu"), dtype="float32")


def test_a_layer_is_the_same_with_sharing_and_without(layer):
    plans = [layer.plan(shares=shares) for shares in (True, False)]
    assert [plan.shares_prefixes for plan in plans] == [True, False]
    shared, alone = (layer.attend(plan)() for plan in plans)
    torch.testing.assert_close(shared, alone, atol=2e-5, rtol=2e-5)


def test_sharing_reads_the_least_and_without_it_every_token_is_read(layer):
    step = Groups(6, 3, 192, 20).decoding()
    assert layer.keys_read(layer.plan(shares=True)) == step.distinct_tokens
    assert layer.keys_read(layer.plan(shares=False)) == step.seq_lens.sum()


def test_a_layers_row(tmp_path):
    interpret_kernels()
    output = tmp_path / "sharing.json"
    arguments = ["--parts", "layer", "--curve", "members", "--quick", "--output", str(output)]
    prefix_sharing.main([*TINY, "--shrink", "32", *arguments])
    rows = json.loads(output.read_text())["models"]["tiny"]["layer"]["rows"]
    assert [row["members"] for row in rows] == [1, 8]
    for row in rows:
        assert row["least_bytes"] <= row["read_bytes"] <= row["unshared_bytes"]
        assert min(row["shared_us"], row["plan_grown_us"], row["plan_changed_us"]) > 0


def test_the_engines_rows_stand_beside_those_of_earlier_runs(tmp_path, capsys):
    output = tmp_path / "sharing.json"
    earlier = {"benchmark": "sharing", "models": {"tiny": {"layer": 1}, "other": {"layer": 2}}}
    output.write_text(json.dumps(earlier))
    arguments = ["--parts", "engine", "unshared", "--curve", "prefill", "goal", "--quick"]
    arguments += ["--output", str(output)]
    prefix_sharing.main([*TINY, *ENGINE, *arguments])
    models = json.loads(output.read_text())["models"]
    assert models["other"] == {"layer": 2}
    assert models["tiny"]["layer"] == 1
    *prompts, row = models["tiny"]["engine"]["rows"]
    assert all(each["sharing"]["decode_step_ms"] is None for each in prompts)
    assert (row["groups"], row["members"], row["shared"], row["output"]) == (64, 16, 2048, 256)
    unshared = models["tiny"]["unshared"]["rows"]
    assert [row["groups"] for row in unshared] == prefix_sharing.UNSHARED
    for each in (row, *unshared):
        assert min(each["sharing"].values()) > 0
        assert min(each["without"].values()) > 0
    assert "64 x 16: 2048 + 128 -> 256" in capsys.readouterr().out
