"""The benchmarks of the engine run on a CPU with a tiny model; their figures mean nothing there."""

from __future__ import annotations

import gzip
import json
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.engine.figures import EngineFigure, keep, show
from benchmarks.engine.job import Job, run_job
from benchmarks.engine.models import CONFIGS, model_folder
from benchmarks.engine.workloads import WORKLOADS
from rich.console import Console

from benchmarks.engine import offline, one_batch
from worker.models.config import load_model_config

TINY = ["--model", "tiny", "--device", "cpu", "--max-total-tokens", "4096", "--num-threads", "1"]


def figure(engine: str, workload: str, *runs: float, model: str = "llama-3.1-8b") -> EngineFigure:
    return EngineFigure(engine, "1.0", model, workload, list(runs), {}, {})


def test_the_shipped_shapes():
    eight = load_model_config(model_folder("llama-3.1-8b"))
    assert (eight.hidden_size, eight.num_layers, eight.num_heads) == (4096, 32, 32)
    assert (eight.num_kv_heads, eight.head_dim, eight.vocab_size) == (8, 128, 128256)
    small = load_model_config(model_folder("qwen3-0.6b"))
    assert (small.hidden_size, small.num_layers, small.num_heads) == (1024, 28, 16)
    assert (small.num_kv_heads, small.head_dim, small.qk_norm) == (8, 128, True)
    assert small.tie_word_embeddings


def test_a_model_that_is_not_there_is_refused(capsys):
    with pytest.raises(SystemExit) as stopped:
        offline.main(["--model", "gpt-9"])
    assert stopped.value.code == 2
    assert "none of llama-3.1-8b, qwen3-0.6b, tiny" in capsys.readouterr().err


@pytest.mark.parametrize("prefix_cache", [False, True])
def test_every_workload_runs(tmp_path: Path, prefix_cache: bool):
    wanted = [name for name, each in WORKLOADS.items() if each.prefix_cache == prefix_cache]
    job = Job(
        engine="radixfleet",
        model=str(CONFIGS / "tiny"),
        arguments={"device": "cpu", "max_total_tokens": 4096, "num_threads": 1},
        warmups=0,
        repeats=2,
        seed=0,
        shrink=64,
        trace=str(tmp_path),
        workloads=wanted,
        prefix_cache=prefix_cache,
    )
    result = run_job(job)
    assert list(result.measured) == wanted
    assert all(len(measured.runs) == 2 for measured in result.measured.values())
    assert 0 < result.ready_seconds < result.first_token_seconds
    assert "loading weights" in result.stages
    for name in wanted:
        trace = json.loads(gzip.decompress((tmp_path / f"tiny-{name}.json.gz").read_bytes()))
        assert any(event["name"] == "scheduler step" for event in trace["traceEvents"])


def test_the_command_measures_a_start_and_a_workload(tmp_path, capfd):
    output = tmp_path / "figures.json"
    arguments = ["--workload", "start", "one", "--shrink", "64", "--repeats", "1"]
    with pytest.raises(SystemExit) as ended:
        offline.main([*TINY, *arguments, "--peers", "vllm", "--output", str(output)])
    assert ended.value.code == 0
    assert "vllm is not installed" in capfd.readouterr().out
    document = json.loads(output.read_text())
    start, one = document["figures"]
    assert (start["workload"], one["workload"]) == ("start", "one")
    assert start["details"]["stages_seconds"]["importing"] > 0
    assert one["details"]["decode_step_cpu_ms"] > 0
    assert one["machine"]["torch"]
    assert one["arguments"]["max_total_tokens"] == 4096


def test_a_process_that_fails_is_told(tmp_path, capfd):
    nothing_fits = ["--page-size", "5000"]
    with pytest.raises(SystemExit) as ended:
        offline.main([*TINY, *nothing_fits, "--workload", "one", "--output", str(tmp_path / "f")])
    assert ended.value.code == 1
    assert "failed: radixfleet ended with exit code 1" in capfd.readouterr().out


def test_figures_of_others_stay_in_the_file(tmp_path):
    path = tmp_path / "figures.json"
    keep(path, [figure("radixfleet", "one", 1.0), figure("vllm", "one", 2.0)], "d1", {"gpu": "a"})
    keep(path, [figure("radixfleet", "one", 3.0, 5.0, 9.0)], "d2", {"gpu": "b"})
    eager = replace(figure("radixfleet", "one", 7.0), arguments={"disable_cuda_graph": True})
    keep(path, [eager], "d3", {})
    kept = json.loads(path.read_text())["figures"]
    assert [(each["engine"], each["date"], each["median"]) for each in kept] == [
        ("vllm", "d1", 2.0),
        ("radixfleet", "d2", 5.0),
        ("radixfleet", "d3", 7.0),
    ]


def test_the_table_has_ours_beside_what_was_published_or_measured():
    console = Console(width=200, record=True)
    show(
        console,
        [
            figure("radixfleet", "one", 190.0, 246.0, 250.0),
            figure("sglang", "one", 222.0),
            figure("radixfleet", "eight", 2000.0),
            figure("radixfleet", "start", 10.0),
        ],
    )
    lines = console.export_text().splitlines()
    one = next(line for line in lines if "1 request" in line)
    cells = [cell.strip() for cell in one.split("│")[2:-1]]
    assert cells == ["246", "190 - 250", "230", "107%", "(202)", "222", "286"]
    eight = next(line for line in lines if "8 requests" in line)  # of which no peer told
    assert [cell.strip() for cell in eight.split("│")[2:-1]][4:] == ["", "", "2,290"]
    start = next(line for line in lines if "start to ready" in line)
    assert "200%" in start  # twice as fast as wanted


def test_one_batch_prints_latencies(tmp_path, capsys):
    output = tmp_path / "latency.json"
    arguments = ["--batch-size", "1", "2", "--input-len", "16", "--output-len", "8"]
    arguments += ["--repeats", "1", "--output", str(output), "--profile", str(tmp_path)]
    one_batch.main([*TINY, *arguments])
    assert "2 x (16 -> 8)" in capsys.readouterr().out
    for latency in json.loads(output.read_text())["latencies"]:
        assert latency["decode"]["steps"] >= 3
        assert latency["decode"]["cpu"] > 0
        assert latency["total_seconds"] > 0
    assert len(list(tmp_path.glob("*.json.gz"))) == 4


def test_one_batch_can_measure_decode_steps_alone(tmp_path, capsys):
    arguments = ["--batch-size", "2", "--input-len", "16", "--output-len", "8", "--decode-only"]
    one_batch.main([*TINY, *arguments, "--profile", str(tmp_path)])
    printed = capsys.readouterr().out
    assert "2 x (16 -> 8)" in printed
    assert "prefill" not in printed
    assert [path.name for path in tmp_path.glob("*.json.gz")] == ["decode-2x16.json.gz"]
