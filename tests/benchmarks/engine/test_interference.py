"""The interference benchmark measures every row, on a tiny model."""

import json

from benchmarks.engine import interference


def test_rows_for_all_settings_that_were_asked_for(tmp_path):
    output = tmp_path / "interference.json"
    arguments = "--model tiny --device cpu --max-total-tokens 4000 --decoders 2 --prompt 100"
    arguments += " --every 0.2 --seconds 1 --num-threads 1 --settings defaults mixed"
    interference.main([*arguments.split(), "--output", str(output)])
    document = json.loads(output.read_text())
    assert [row["settings"] for row in document["rows"]] == ["defaults", "mixed"]
    for row in document["rows"]:
        assert 0 < row["gap_p50_ms"] <= row["gap_p99_ms"] <= row["gap_max_ms"]
        assert 0 < row["first_token_p50_ms"] <= row["first_token_max_ms"]
