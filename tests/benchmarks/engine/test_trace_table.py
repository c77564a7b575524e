"""Kernels of a trace are counted by what they are for, and gaps are what no kernel fills."""

from __future__ import annotations

import gzip
import json

import pytest
from benchmarks.engine.trace_table import TraceTable, kernel_class
from rich.console import Console


def kernel(name, start, duration, grid=(1, 1, 1), category="kernel"):
    arguments = {"grid": list(grid)}
    return {
        "ph": "X",
        "cat": category,
        "name": name,
        "ts": start,
        "dur": duration,
        "tid": 7,
        "args": arguments,
    }


@pytest.fixture
def table(tmp_path):
    """Reads `events` as the trace of two steps."""

    def read(*events):
        path = tmp_path / "trace.json.gz"
        path.write_bytes(gzip.compress(json.dumps({"traceEvents": events}).encode()))
        return TraceTable.read(path, steps=2)

    return read


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("nvjet_tst_64x8_64x16_4x1_v_bz_splitK_TNT", "matrix products"),
        ("void cublasLt::splitKreduce_kernel<32, 16, int, float>(cublasLt::P)", "matrix products"),
        ("_skinny_few", "matrix products"),
        ("_prefix_kernel", "attention: shared prefixes"),
        ("_decode_kernel", "attention: decode"),
        ("cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma", "attention: prompts"),
        ("_qk_norm_rope_write", "rope + write"),
        ("_weigh_chunk", "sampling"),
        ("void at::native::indexSelectSmallIndex<c10::BFloat16>", "copies and indexing"),
        ("void at::native::vectorized_elementwise_kernel<4>", "other"),
    ],
)
def test_classes(name, kind):
    assert kernel_class(name) == kind


def test_totals_gaps_and_overlaps(table):
    found = table(
        kernel("nvjet_a", 100, 10, grid=(132, 1, 1)),
        kernel("nvjet_a", 120, 30, grid=(64, 1, 1)),
        kernel("_silu_and_mul", 140, 20),  # 10 of them beside the product
        kernel("Memcpy HtoD (Pinned -> Device)", 190, 10, category="gpu_memcpy"),
        kernel("aten::mm", 0, 500, category="cpu_op"),
    )
    assert found.on_gpu
    assert (found.span, found.busy) == (100, 60)
    products = found.kinds["matrix products"]
    assert {name: total.microseconds for name, total in products.items()} == {
        "[132, 1, 1] nvjet_a": 10,
        "[64, 1, 1] nvjet_a": 30,
    }
    assert set(found.kinds["copies and indexing"]) == {"Memcpy HtoD"}
    console = Console(width=200, record=True)
    found.show(console, "a trace")
    rows = [
        [cell.strip() for cell in line.split("│")[1:-1]]
        for line in console.export_text().splitlines()
        if line.startswith("│")
    ]
    assert ["matrix products", "20.0", "40.0 %", "1.0", "20.00"] in rows
    assert ["nothing runs", "20.0", "40.0 %", "", ""] in rows
    assert ["kernels overlap", "-5.0", "-10.0 %", "", ""] in rows


def test_on_a_cpu_operators_count_without_those_that_they_call(table):
    found = table(
        kernel("aten::linear", 0, 10, category="cpu_op"),
        kernel("aten::mm", 2, 5, category="cpu_op"),
        kernel("aten::add", 10, 10, category="cpu_op"),
    )
    assert not found.on_gpu
    assert set(found.kinds["operators"]) == {"aten::linear", "aten::add"}
    assert found.busy == found.span == 20


def test_a_trace_of_nothing_is_an_error(table):
    with pytest.raises(ValueError, match="nothing ran"):
        table(kernel("scheduler step", 0, 10, category="user_annotation"))
