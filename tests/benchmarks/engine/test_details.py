"""The benchmark of log-probabilities and embeddings measures every row, on a tiny model."""

import json

from benchmarks.engine import details


def test_a_row_for_everything_that_is_asked_for(tmp_path):
    output = tmp_path / "details.json"
    arguments = "--model tiny --device cpu --max-total-tokens 4000 --num-threads 1 --repeats 1"
    arguments += " --requests 2 --answer 4 --prompts 2 --prompt 20 --texts 5 30 --embed 60"
    details.main([*arguments.split(), "--output", str(output)])
    rows = json.loads(output.read_text())["rows"]
    kinds = [(row["what"], row["asked"]) for row in rows]
    answers = [(what, asked) for what in ("decode", "prompt") for asked in details.WISHES]
    assert kinds == [*answers, ("embed", "texts of 5"), ("embed", "texts of 30")]
    assert all(row["tokens_per_second"] > 0 for row in rows)
    assert [row["ratio"] for row in rows if row["asked"] == "nothing"] == [1.0, 1.0]
