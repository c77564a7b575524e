"""`router_py._core`: options are parsed in Rust, and described for other command lines."""

from __future__ import annotations

import json

import pytest

from router_py import _core


def test_a_command_line_becomes_the_configuration() -> None:
    argv = ["--worker-urls", "http://a:1", "b:2", "--policy", "round_robin", "--port", "0"]
    config = json.loads(_core.parse_args(argv, "launch_router"))
    assert config["worker_urls"] == ["http://a:1", "b:2"]
    assert config["policy"] == "round_robin"
    assert config["port"] == 0
    assert config["cache_threshold"] == 0.5


def test_help_is_grouped_and_names_the_program(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        _core.parse_args(["--help"], "my_launcher")
    assert exit_info.value.code == 0
    printed = capfd.readouterr()
    assert "Usage: my_launcher" in printed.out
    assert printed.err == ""
    for option in _core.options():
        assert f"--{option['name']}" in printed.out
        assert f"{option['group']}:" in printed.out


def test_a_bad_command_line_exits_with_2_and_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    for argv, reason in [
        (
            ["--policy", "best"],
            "possible values: expected_cost, cache_aware, consistent_hash, least_load",
        ),
        (["--cache-threshold", "2"], "--cache-threshold 2: must be between 0 and 1"),
        (["--worker-urls", "https://a"], "https workers are not supported"),
        (["--polcy", "random"], "unexpected argument '--polcy'"),
    ]:
        with pytest.raises(SystemExit) as exit_info:
            _core.parse_args(argv, "launch_router")
        assert exit_info.value.code == 2
        printed = capfd.readouterr()
        assert reason in printed.err
        assert printed.out == ""


def test_options_are_described_completely() -> None:
    options = {option["name"]: option for option in _core.options()}
    assert options["balance-abs-threshold"] == {
        "name": "balance-abs-threshold",
        "help": options["balance-abs-threshold"]["help"],
        "group": "Routing",
        "default": "32",
        "value_name": "REQUESTS",
        "choices": None,
        "takes_value": True,
        "multiple": False,
    }
    assert options["policy"]["choices"] == [
        "expected_cost",
        "cache_aware",
        "consistent_hash",
        "least_load",
        "power_of_two",
        "round_robin",
        "random",
    ]
    assert options["worker-urls"]["multiple"]
    config = json.loads(_core.parse_args([], "launch_router"))
    assert [name.replace("-", "_") for name in options] == list(config)


def test_keys_from_the_environment_are_taken_and_not_shown(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RADIXFLEET_API_KEY", "sesame,second")
    monkeypatch.setenv("RADIXFLEET_ADMIN_API_KEY", "sesame-admin")
    config = json.loads(_core.parse_args([], "launch_router"))
    assert (config["api_key"], config["admin_api_key"]) == (["sesame", "second"], "sesame-admin")
    with pytest.raises(SystemExit):
        _core.parse_args(["--help"], "launch_router")
    printed = capfd.readouterr().out
    assert "[env: RADIXFLEET_API_KEY]" in printed
    assert "sesame" not in printed + json.dumps(_core.options())
