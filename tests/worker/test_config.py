"""Server arguments survive the way over a command line, and secrets do not take it."""

from __future__ import annotations

import argparse
import dataclasses

import pytest

from worker.config import API_KEY_VARIABLE, ServerArgs
from worker.parsers.registry import REASONING_FORMATS, TOOL_CALL_PARSERS


def parse(flags: list[str]) -> ServerArgs:
    parser = argparse.ArgumentParser()
    ServerArgs.add_cli_arguments(parser)
    return ServerArgs.from_cli(parser.parse_args(flags))


def test_arguments_become_flags_and_flags_become_arguments() -> None:
    args = ServerArgs(
        model_path="-odd",
        chat_template="--{{ x }}",
        random_seed=-1,
        disable_radix_cache=True,
        cuda_graph_bs=[1, 2, 8],
    )
    assert parse(args.to_cli()) == args == ServerArgs.from_json(args.to_json())
    assert ServerArgs().to_cli() == []


def test_a_key_comes_from_the_environment_and_stays_off_the_command_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv(API_KEY_VARIABLE, "quiet")
    assert parse([]).api_key == "quiet"
    assert parse(["--api-key", "loud"]).api_key == "loud"
    assert ServerArgs(api_key="loud").to_cli() == []
    monkeypatch.delenv(API_KEY_VARIABLE)
    assert parse([]).api_key is None


def test_sizes_have_their_short_names() -> None:
    assert parse(["--tp", "2"]).tp_size == parse(["--tensor-parallel-size", "2"]).tp_size == 2


def test_the_watchdog_takes_seconds_or_none() -> None:
    assert parse([]).watchdog_timeout == 300.0
    assert parse(["--watchdog-timeout", "0"]).watchdog_timeout == 0.0
    for wrong in ("-1", "inf", "nan"):
        with pytest.raises(SystemExit):
            parse([f"--watchdog-timeout={wrong}"])


@pytest.mark.parametrize("name", ["quantization", "schedule_policy", "kv_cache_dtype", "dtype"])
def test_a_program_is_told_of_a_value_that_is_no_choice(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is 'int4', and not one of"):
        ServerArgs(**{name: "int4"})


@pytest.mark.parametrize(
    ("option", "registry"),
    [("tool_call_parser", TOOL_CALL_PARSERS), ("reasoning_parser", REASONING_FORMATS)],
)
def test_every_parser_can_be_chosen(option: str, registry: dict[str, object]) -> None:
    fields = {field.name: field for field in dataclasses.fields(ServerArgs)}
    assert set(fields[option].metadata["choices"]) == set(registry)
