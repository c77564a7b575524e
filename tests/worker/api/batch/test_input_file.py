"""What is wrong with the input files of batches, line by line."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path
from typing import Any

import pytest

from worker.api.batch import input_file
from worker.api.batch.input_file import CheckedInput, body_of, check_input

from ..batch_requests import CHAT, as_jsonl, chat_line


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "in.jsonl"


def check(path: Path, *lines: dict[str, Any] | str) -> CheckedInput:
    path.write_bytes(as_jsonl(lines))
    return check_input(path, CHAT)


def read(path: Path, checked: CheckedInput, index: int) -> Any:
    """The body of a line, found where `checked` says that it is."""
    line = checked.lines[index]
    content = path.read_bytes()[line.start : line.start + line.size]
    return json.loads(body_of(content))


def test_lines_are_found_again(path: Path) -> None:
    lines = [chat_line("é"), chat_line("b", n=2), chat_line("c")]
    written = [json.dumps(line, ensure_ascii=False, indent=None) for line in lines]
    path.write_bytes(f"\n{written[0]}\r\n  \n{written[1]}\n{written[2]}".encode())
    checked = check_input(path, CHAT)
    assert checked.errors == []
    assert [(line.number, line.custom_id) for line in checked.lines] == [
        (2, "é"),
        (4, "b"),
        (5, "c"),
    ]
    assert [read(path, checked, i) for i in range(3)] == [line["body"] for line in lines]


def test_bodies_stay_as_they_were_written() -> None:
    body = b'{"seed": 123456789012345678901234567890, "a": 1.50, "a": 2}'
    line = b'{"custom_id": "a", "method": "POST", "url": "/x", "body":  ' + body + b" }\n"
    assert body_of(line) == body


def test_the_v1_of_the_url_may_be_left_out(path: Path) -> None:
    assert check(path, {**chat_line("a"), "url": "/chat/completions"}).errors == []


def without(name: str) -> dict[str, Any]:
    return {key: value for key, value in chat_line("a").items() if key != name}


@pytest.mark.parametrize(
    ("line", "code", "param"),
    [
        ("{", "invalid_json_line", None),
        ("[" * 100_000, "invalid_value", None),
        ('{"body": ' + "[" * 100_000, "invalid_json_line", None),
        ("[]", "invalid_value", None),
        ("null", "invalid_value", None),
        ('{"custom_id": "a"} {}', "invalid_json_line", None),
        ({**chat_line("a"), "colour": "red"}, "invalid_value", None),
        (without("custom_id"), "missing_required_parameter", "custom_id"),
        (without("method"), "missing_required_parameter", "method"),
        (without("url"), "missing_required_parameter", "url"),
        (without("body"), "missing_required_parameter", "body"),
        ({**chat_line("a"), "custom_id": 7}, "invalid_value", "custom_id"),
        ({**chat_line("a"), "custom_id": ""}, "invalid_value", "custom_id"),
        ({**chat_line("a"), "custom_id": "a" * 513}, "invalid_value", "custom_id"),
        ({**chat_line("a"), "method": "GET"}, "invalid_value", "method"),
        ({**chat_line("a"), "url": "/v1/completions"}, "url_mismatch", "url"),
        ({**chat_line("a"), "url": ["/v1/chat/completions"]}, "url_mismatch", "url"),
        ({**chat_line("a"), "body": []}, "invalid_value", "body"),
        ({**chat_line("a"), "body": None}, "invalid_value", "body"),
    ],
)
def test_a_bad_line_is_reported(
    path: Path, line: dict[str, Any] | str, code: str, param: str | None
) -> None:
    (error,) = check(path, chat_line("before"), line, chat_line("after")).errors
    assert (error.line, error.code, error.param) == (2, code, param)
    assert len(error.message) < 300


def test_bytes_that_are_no_text_are_reported(path: Path) -> None:
    path.write_bytes(b'{"custom_id": "\xff"}\n')
    (error,) = check_input(path, CHAT).errors
    assert (error.line, error.code) == (1, "invalid_json_line")


def test_a_doubled_id_says_where_it_was(path: Path) -> None:
    (error,) = check(path, chat_line("a"), chat_line("b"), chat_line("a")).errors
    assert (error.line, error.code, error.param) == (3, "duplicate_custom_id", "custom_id")
    assert "line 1" in error.message


def test_a_line_that_is_too_long_hides_no_other(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(input_file, "MAX_LINE_BYTES", 1000)
    exact = json.dumps(chat_line("exact"))
    exact += " " * (999 - len(exact))  # and its line end
    long = chat_line("long", stop="x" * 5000)
    checked = check(path, exact, long, chat_line("after"), exact + " ", "{")
    assert [(error.line, error.code) for error in checked.errors] == [
        (2, "line_too_long"),
        (4, "line_too_long"),
        (5, "invalid_json_line"),
    ]
    assert read(path, checked, 1) == chat_line("after")["body"]


@pytest.mark.parametrize("content", [b"", b"\n \n\n"])
def test_a_file_without_requests_is_reported(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    (error,) = check_input(path, CHAT).errors
    assert (error.line, error.code) == (None, "empty_file")


def test_a_file_that_is_too_large_is_not_read(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(input_file, "MAX_INPUT_BYTES", 10)
    (error,) = check(path, "{" * 10).errors
    assert (error.line, error.code) == (None, "file_too_large")


def test_a_file_that_somebody_removed_is_reported(path: Path) -> None:
    (error,) = check_input(path, CHAT).errors
    assert (error.code, error.line) == ("file_not_found", None)


def test_errors_end_after_a_hundred(path: Path) -> None:
    assert len(check(path, *["{"] * 150).errors) == 100


def write_many(path: Path, count: int) -> None:
    padding = "x" * 2000
    with path.open("wb") as file:
        for i in range(count):
            file.write(as_jsonl([chat_line(f"request {i}", stop=padding)]))


def test_50_000_lines_are_checked_in_bounded_memory(path: Path) -> None:
    write_many(path, 50_000)
    assert path.stat().st_size > 100_000_000
    tracemalloc.start()
    checked = check_input(path, CHAT)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (len(checked.lines), checked.errors) == (50_000, [])
    assert peak < 30_000_000
    with path.open("ab") as file:
        file.write(as_jsonl([chat_line("one more")]))
    (error,) = check_input(path, CHAT).errors
    assert (error.line, error.code) == (None, "too_many_tasks")
