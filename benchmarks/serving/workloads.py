"""What is asked: the workloads, their options, and the requests that they make."""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from worker.config import positive_int
from worker.tokenization.tokenizer import Tokenizer

from ..simulator.traces import read_trace
from .texts import Texts

# Of English. Without a tokenizer, the answers of a ShareGPT file are as long as this makes them.
CHARACTERS_PER_TOKEN = 4
TRACE_BLOCK_LENGTH = 512


@dataclass(frozen=True)
class Request:
    """Lengths in tokens: the prompt's as it was aimed at, the answer's as it is asked for."""

    prompt: str
    input_length: int
    output_length: int
    seconds: float | None = None
    """When it arrives, where the workload says so."""


@dataclass(frozen=True)
class Source:
    """What workloads are made from."""

    options: argparse.Namespace
    texts: Texts
    tokenizer: Tokenizer | None = None

    def generator(self, *purpose: int) -> np.random.Generator:
        """A stream of random numbers of its own for each purpose."""
        return np.random.default_rng([self.options.seed, *purpose])

    def length(self, text: str) -> int:
        """Tokens of a given text: counted by the tokenizer, or estimated from its characters."""
        if self.tokenizer is None:
            return math.ceil(len(text) / CHARACTERS_PER_TOKEN)
        return len(self.tokenizer.encode(text, add_special_tokens=False))


def positive_float(text: str) -> float:
    """For argparse: a number above 0; `inf` is one."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return value


@dataclass(frozen=True)
class Workload:
    """`add_options` adds what it needs to a parser; `make` raises ValueError for a bad file."""

    add_options: Callable[[argparse._ArgumentGroup], None]
    make: Callable[[Source], list[Request]]


# ===== sharegpt =====


@dataclass(frozen=True)
class LogNormal:
    """Lengths in tokens, by mean and by the deviation of their logarithm."""

    mean: float
    deviation: float
    least: int
    most: int

    def draw(self, rng: np.random.Generator) -> int:
        """Lengths outside of the limits are drawn again, as such conversations are left out."""
        mean_of_logarithm = math.log(self.mean) - self.deviation**2 / 2
        while True:
            length = round(rng.lognormal(mean_of_logarithm, self.deviation))
            if self.least <= length <= self.most:
                return length


# The means are ShareGPT's in the paper on vLLM (Kwon et al., SOSP 2023, figure 11), before lengths
# are limited as they commonly are; the deviations are ours, for medians of 69 and 205.
SHAREGPT_INPUT = LogNormal(161, 1.3, 4, 1024)
SHAREGPT_OUTPUT = LogNormal(338, 1.0, 4, 1024)


def _sharegpt_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--sharegpt-output-len",
        type=positive_int,
        metavar="TOKENS",
        help="length of every answer (default: that of the data set's answers, or drawn)",
    )
    group.add_argument(
        "--sharegpt-context-len",
        type=positive_int,
        metavar="TOKENS",
        help="leave out requests of which prompt and answer are longer together",
    )


def _sharegpt(source: Source) -> list[Request]:
    """From a file, or of lengths as in ShareGPT."""
    options = source.options
    candidates = _made_up_chats(source) if options.dataset_path is None else _chats_of_file(source)
    limit = options.sharegpt_context_len or math.inf
    requests: list[Request] = []
    for request in candidates:
        if len(requests) == options.num_prompts:
            break
        if request.input_length + request.output_length <= limit:
            requests.append(request)
    return requests


def _made_up_chats(source: Source) -> Iterator[Request]:
    rng, words = source.generator(0), source.generator(1)  # lengths do not hang on words
    fixed = source.options.sharegpt_output_len
    if (source.options.sharegpt_context_len or math.inf) < SHAREGPT_INPUT.least + (
        fixed or SHAREGPT_OUTPUT.least
    ):
        raise ValueError("--sharegpt-context-len leaves no room for any request")
    while True:
        length = SHAREGPT_INPUT.draw(rng)
        output = fixed or SHAREGPT_OUTPUT.draw(rng)
        yield Request(source.texts.prompt(words, length), length, output)


def _chats_of_file(source: Source) -> Iterator[Request]:
    """First questions of the file's conversations, shuffled."""
    rng, fixed = source.generator(0), source.options.sharegpt_output_len
    chats = _read_chats(source.options.dataset_path)
    for index in rng.permutation(len(chats)):
        question, answer = chats[index]
        length = source.length(question)
        if fixed is not None:
            output = fixed
        elif answer is None:
            output = SHAREGPT_OUTPUT.draw(rng)
        else:
            output = source.length(answer)
        if length >= SHAREGPT_INPUT.least and output >= SHAREGPT_OUTPUT.least:
            yield Request(question, length + source.texts.overhead, output)


def _read_chats(path: Path) -> list[tuple[str, str | None]]:
    """Question and answer of each conversation; questions alone for lines with `turns`."""
    text = path.read_text()
    try:
        if text.lstrip().startswith("["):
            return [chat for entry in json.loads(text) if (chat := _sharegpt_chat(entry))]
        return [(json.loads(line)["turns"][0], None) for line in text.splitlines() if line.strip()]
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} is neither ShareGPT's JSON (a list of conversations) nor JSON lines with "
            f"turns, as MT-bench has them: {error!r}"
        ) from error


def _sharegpt_chat(entry: dict[str, Any]) -> tuple[str, str] | None:
    """None for a conversation without an answer."""
    turns = entry.get("conversations", entry.get("conversation", []))
    return (turns[0]["value"], turns[1]["value"]) if len(turns) >= 2 else None


# ===== random =====


def _random_options(group: argparse._ArgumentGroup) -> None:
    for side in ("input", "output"):
        group.add_argument(
            f"--random-{side}-len",
            type=positive_int,
            default=1024,
            metavar="TOKENS",
            help=f"greatest {side} length (default: %(default)s)",
        )
    group.add_argument(
        "--random-range-ratio",
        type=_share,
        default=0.0,
        metavar="RATIO",
        help="lengths lie evenly between this share of the greatest and the greatest itself; "
        "1: all the same (default: %(default)s)",
    )


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must lie between 0 and 1, not {text}")
    return value


def _random(source: Source) -> list[Request]:
    """Prompts that share nothing."""
    options, rng = source.options, source.generator(0)

    def lengths(greatest: int) -> list[int]:
        least = max(1, int(greatest * options.random_range_ratio))
        return rng.integers(least, greatest + 1, options.num_prompts).tolist()

    pairs = zip(lengths(options.random_input_len), lengths(options.random_output_len), strict=True)
    return [Request(source.texts.prompt(rng, given), given, made) for given, made in pairs]


# ===== generated-shared-prefix =====


def _shared_prefix_options(group: argparse._ArgumentGroup) -> None:
    for name, default, what in (
        ("num-groups", 64, "system prompts"),
        ("prompts-per-group", 16, "requests for each of them"),
        ("system-prompt-len", 2048, "tokens of a system prompt"),
        ("question-len", 128, "tokens of a question"),
        ("output-len", 256, "tokens of an answer"),
    ):
        group.add_argument(
            f"--gsp-{name}",
            type=positive_int,
            default=default,
            metavar="N",
            help=f"{what} (default: {default})",
        )


def _shared_prefix(source: Source) -> list[Request]:
    """All prompts of all groups, shuffled."""
    options, rng = source.options, source.generator(0)
    length = options.gsp_system_prompt_len + options.gsp_question_len

    requests = []
    for _ in range(options.gsp_num_groups):
        system_prompt = source.texts.prompt(rng, options.gsp_system_prompt_len)
        for _ in range(options.gsp_prompts_per_group):
            question = source.texts.text(rng, options.gsp_question_len)
            prompt = f"{system_prompt} {question}"
            requests.append(Request(prompt, length, options.gsp_output_len))
    return [requests[index] for index in rng.permutation(len(requests))]


# ===== mooncake =====


def _mooncake_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--trace-speed",
        type=positive_float,
        default=1.0,
        metavar="FACTOR",
        help="how many times as fast as it was recorded (default: %(default)s)",
    )
    group.add_argument(
        "--trace-block-len",
        type=positive_int,
        default=TRACE_BLOCK_LENGTH,
        metavar="TOKENS",
        help="tokens that stand for a hashed block of %(default)s; fewer make all prompts "
        "shorter in proportion, for models of short context",
    )


def _mooncake(source: Source) -> list[Request]:
    """The trace's first requests; a hash is the same random words wherever it comes."""
    options, texts = source.options, source.texts
    if options.dataset_path is None:
        raise ValueError("mooncake needs --dataset-path with a trace (JSON lines)")
    blocks: dict[int, str] = {}

    def text(block: int) -> str:
        if block not in blocks:
            blocks[block] = texts.text(source.generator(1, block), options.trace_block_len)
        return blocks[block]

    words_in_block = texts.word_count(options.trace_block_len)
    shrink = options.trace_block_len / TRACE_BLOCK_LENGTH
    requests = []
    for entry in read_trace(options.dataset_path, TRACE_BLOCK_LENGTH).requests:
        if len(requests) == options.num_prompts:
            break
        length = max(1, round(entry.input_length * shrink))
        whole, rest = divmod(texts.word_count(length - texts.overhead), words_in_block)
        parts = [text(block) for block in entry.blocks[:whole]]
        if rest and whole < len(entry.blocks):  # words of a block are a rounded number
            parts.append(" ".join(text(entry.blocks[whole]).split(maxsplit=rest)[:rest]))
        seconds = entry.seconds / options.trace_speed
        requests.append(Request(" ".join(parts), length, entry.output_length, seconds))
    return requests


WORKLOADS = {
    "sharegpt": Workload(_sharegpt_options, _sharegpt),
    "random": Workload(_random_options, _random),
    "generated-shared-prefix": Workload(_shared_prefix_options, _shared_prefix),
    "mooncake": Workload(_mooncake_options, _mooncake),
}
