"""The interference benchmark measures every row, on a tiny model."""

import json

import pytest

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


@pytest.mark.parametrize(
    ("load", "message"),
    [
        ("--prompt 5000", "prompt 0 of 5000 tokens"),
        ("--prompt 9 --every 9", "no long prompt was answered"),
    ],
)
def test_a_load_that_says_nothing_is_an_error(load, message):
    arguments = f"--model tiny --device cpu --max-total-tokens 4000 --decoders 1 {load}"
    arguments += " --seconds 0.1 --num-threads 1 --settings defaults"
    with pytest.raises(ValueError, match=message):
        interference.main(arguments.split())
