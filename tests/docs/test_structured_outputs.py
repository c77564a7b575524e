"""The examples of docs/structured_outputs.md, run as they stand against the model they name."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from ..serving import WORKER, serving

TEXT = (Path(__file__).parents[2] / "docs" / "structured_outputs.md").read_text()
ADDRESS = "http://127.0.0.1:30000"


class Example(NamedTuple):
    """`heading` is that of its section, and `place` its place there."""

    heading: str
    place: int
    language: str
    code: str


def examples() -> list[Example]:
    found = []
    for section in re.split(r"^##? ", TEXT, flags=re.MULTILINE)[1:]:
        heading, _, body = section.partition("\n")
        blocks = re.findall(r"^```(\w+)\n(.*?)^```$", body, re.MULTILINE | re.DOTALL)
        found += [Example(heading, place, *block) for place, block in enumerate(blocks)]
    return found


START, *OTHERS = examples()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Of the worker that the document starts, with a small memory and another port."""
    _, dash_m, module, *flags = shlex.split(START.code)
    assert (dash_m, module) == ("-m", WORKER)
    assert ADDRESS.endswith(flags.pop(flags.index("--port") + 1))
    flags.remove("--port")
    flags += ["--max-total-tokens", "8192", "--num-threads", "1", "--log-level", "error"]
    with serving(module, *flags) as server:
        yield server.url


def _check_city(names: dict[str, Any], _: str) -> None:
    assert isinstance(names["city"], names["City"])
    assert isinstance(names["streamed"], names["City"])
    assert isinstance(names["response"].output_parsed, names["City"])


def _check_colour(_: dict[str, Any], output: str) -> None:
    answer = json.loads(json.loads(output)["choices"][0]["message"]["content"])
    assert set(answer) == {"colour", "warm"}


def _check_patterns(names: dict[str, Any], _: str) -> None:
    assert names["answer"] in ("Yes", "No")
    assert re.fullmatch(r"\d{1,3}(\.\d{1,3}){3}", names["native"]["text"])


def _check_light(names: dict[str, Any], _: str) -> None:
    assert isinstance(names["light"], names["Light"])


def _check_moves(names: dict[str, Any], _: str) -> None:
    assert re.fullmatch(r"[NBRQK]?[a-h][1-8](, [NBRQK]?[a-h][1-8]){2}", names["answer"].strip())


def _check_tags(names: dict[str, Any], _: str) -> None:
    assert re.search(r'<(time|weather)>{"city": "(Rome|Oslo)"}</\1>', names["answer"]["text"])


def _check_tools(names: dict[str, Any], _: str) -> None:
    assert isinstance(names["wanted"], names["GetWeather"])
    assert "18 degrees" in names["answer"].choices[0].message.content


def _check_offline(names: dict[str, Any], _: str) -> None:
    assert set(json.loads(names["person"]["text"])) == {"name", "age"}
    assert 1 <= int(names["number"]["text"]) <= 9999


# What is true after an example: of the names it has made, and of what it has printed.
CHECKS: dict[tuple[str, int], Callable[[dict[str, Any], str], None]] = {
    ("JSON from a pydantic model", 0): _check_city,
    ("JSON from a pydantic model", 1): _check_colour,
    ("A regular expression", 0): _check_patterns,
    ("A regular expression", 1): _check_light,
    ("A grammar", 0): _check_moves,
    ("Structures within free text", 0): _check_tags,
    ("Tools", 0): _check_tools,
    ("Without a server", 0): _check_offline,
}


@pytest.mark.parametrize("example", OTHERS, ids=lambda each: f"{each.heading} {each.place}")
def test_an_example_does_what_it_says(
    example: Example, address: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code = example.code.replace(ADDRESS, address)
    names: dict[str, Any] = {"__name__": "example"}
    if example.language == "python":
        exec(compile(code, example.heading, "exec", dont_inherit=True), names)
        output = capsys.readouterr().out
    else:
        output = subprocess.run(code, shell=True, check=True, capture_output=True, text=True).stdout
    assert output
    CHECKS[example.heading, example.place](names, output)


def test_links_lead_somewhere() -> None:
    docs = Path(__file__).parents[2] / "docs"
    for name, anchor in re.findall(r"\]\(([\w.]*)#([\w-]+)\)", TEXT):
        text = (docs / name).read_text() if name else TEXT
        headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
        anchors = {re.sub(r"[^\w -]", "", each).lower().replace(" ", "-") for each in headings}
        assert anchor in anchors, (name, anchor)
