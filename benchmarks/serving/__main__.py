"""Load on a running server over HTTP: throughput, and the latencies that its clients see.

    python -m benchmarks.serving --port 30000 --num-prompts 200 --request-rate 4
    python -m benchmarks.serving --backend openai --base-url http://host:80 --dataset-name random \\
        --random-input-len 1024 --random-output-len 256 --max-concurrency 64

Any server with an OpenAI-compatible or SGLang's native API, alone or behind a router. Options have
the names of SGLang's bench_serving. Workloads (--dataset-name):

    sharegpt                 the first questions of a ShareGPT file (--dataset-path), or without a
                             file prompts and answers of log-normal lengths like those
    random                   prompts that share nothing, of evenly distributed lengths
    generated-shared-prefix  groups of prompts that begin with the same system prompt
    mooncake                 a trace with hashed blocks and times (--dataset-path); requests are
                             sent when it says, unless --request-rate is given

Texts are random words. How many tokens they have is found by asking the server two samples; with
--tokenizer each word is one token, so that lengths are exact.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
import uvloop
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from worker.config import API_KEY_VARIABLE, positive_int
from worker.embedded_models import ModelNotFoundError, resolve_model_path
from worker.tokenization.tokenizer import Tokenizer, TokenizerError, load_tokenizer

from ..report import cpu, write_document
from .backends import BACKENDS, Answer, FailedError
from .client import Client
from .figures import Figures, request_documents
from .load import Run, Send, arrival_times, run
from .plot import draw
from .texts import Texts, texts_of
from .workloads import WORKLOADS, Request, Source, positive_float

WARMUP_OUTPUT_LENGTH = 32


@dataclass(frozen=True)
class Result:
    """A run, and what was found out before it."""

    model: str
    texts: Texts
    paced: bool
    run: Run


def parse(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.serving",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_server_options(parser.add_argument_group("server"))
    _add_load_options(parser.add_argument_group("load"))
    for name, workload in WORKLOADS.items():
        workload.add_options(parser.add_argument_group(f"workload {name}"))
    _add_result_options(parser.add_argument_group("results"))
    return parser.parse_args(argv)


def _add_server_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--backend",
        choices=BACKENDS,
        default="sglang",
        help="the API: /generate, /v1/completions or /v1/chat/completions (default: %(default)s)",
    )
    group.add_argument("--base-url", metavar="URL", help="instead of --host and --port")
    group.add_argument("--host", default="127.0.0.1")
    group.add_argument("--port", type=int, default=30000)
    group.add_argument(
        "--model", "--model-path", metavar="NAME", help="default: the first of /v1/models"
    )
    group.add_argument(
        "--api-key", help=f"default: the environment's {API_KEY_VARIABLE} or OPENAI_API_KEY"
    )
    group.add_argument(
        "--tokenizer",
        metavar="PATH",
        help="the model's folder, .gguf file or embedded name, for prompts of exact length",
    )
    group.add_argument(
        "--extra-request-body",
        type=_json_object,
        default={},
        metavar="JSON",
        help='added to every body, such as {"sampling_params": {"temperature": 0.6}}',
    )
    group.add_argument(
        "--disable-ignore-eos",
        action="store_true",
        help="answers may end before the length asked, and no ignore_eos is sent, which servers "
        "of OpenAI's own do not know",
    )
    group.add_argument(
        "--flush-cache",
        action="store_true",
        help="POST /flush_cache after the warm-up: the same seed asks the same prompts every time",
    )
    group.add_argument(
        "--profile", action="store_true", help="POST /start_profile before, /stop_profile after"
    )


def _add_load_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument("--dataset-name", choices=WORKLOADS, default="sharegpt")
    group.add_argument("--dataset-path", type=Path, metavar="FILE", help="of sharegpt or mooncake")
    group.add_argument(
        "--num-prompts",
        type=positive_int,
        default=1000,
        help="requests, or as many as there are; for generated-shared-prefix the groups say it "
        "(default: %(default)s)",
    )
    group.add_argument(
        "--request-rate",
        type=positive_float,
        metavar="RATE",
        help="requests a second, a Poisson process; inf: all at once (default: inf, or the "
        "trace's times)",
    )
    group.add_argument(
        "--max-concurrency", type=positive_int, metavar="N", help="requests at a time at most"
    )
    group.add_argument(
        "--warmup-requests",
        type=_natural,
        default=1,
        metavar="N",
        help="sent before, of the same input lengths and other text (default: %(default)s)",
    )
    group.add_argument(
        "--request-timeout",
        type=positive_float,
        default=1800.0,
        metavar="SECONDS",
        help="a request fails whose answer is not whole by then (default: %(default)s)",
    )
    group.add_argument("--seed", type=_natural, default=1)


def _add_result_options(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output", "--output-file", type=Path, metavar="FILE", help="all figures as JSON"
    )
    group.add_argument("--plot", type=Path, metavar="FILE", help="a picture as SVG")


def _natural(text: str) -> int:
    value = int(text)
    if value < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return value


def _json_object(text: str) -> dict:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be an object, not {text}")
    return value


def _url(args: argparse.Namespace) -> str:
    return args.base_url or f"http://{args.host}:{args.port}"


def _tokenizer(args: argparse.Namespace) -> Tokenizer | None:
    return load_tokenizer(resolve_model_path(args.tokenizer)) if args.tokenizer else None


async def measure(args: argparse.Namespace, console: Console) -> Result:
    """Find out about the server, warm it up, then put the load on it.

    Raises FailedError if the server does not serve, ValueError for options or files that are wrong.
    """
    api_key = args.api_key or os.environ.get(API_KEY_VARIABLE) or os.environ.get("OPENAI_API_KEY")
    tokenizer = _tokenizer(args)
    async with Client(_url(args), args.request_timeout, api_key) as client:
        model = args.model or await client.first_model()
        backend = BACKENDS[args.backend](
            model, not args.disable_ignore_eos, args.extra_request_body
        )
        send = partial(client.send, backend)
        texts = await _texts(send, tokenizer, args.seed)
        requests = WORKLOADS[args.dataset_name].make(Source(args, texts, tokenizer))
        if not requests:
            raise ValueError(f"{args.dataset_name}: no request is left to send")
        await _warm_up(send, texts, requests[: args.warmup_requests], args)
        arrivals = arrival_times(requests, args.request_rate, np.random.default_rng(args.seed))
        if args.flush_cache:
            await client.ask("POST", "/flush_cache")
        if args.profile:
            await client.ask("POST", "/start_profile")
        with _progress(console) as progress:
            bar = progress.add_task(args.dataset_name, total=len(requests), failed="")
            failed = 0

            def on_answer(answer: Answer) -> None:
                nonlocal failed
                failed += answer.failure is not None
                progress.update(bar, advance=1, failed=f"{failed} failed" if failed else "")

            measured = await run(send, requests, arrivals, args.max_concurrency, on_answer)
        if args.profile:
            await client.ask("POST", "/stop_profile")
    return Result(model, texts, arrivals[-1] > 0, measured)


async def _texts(send: Send, tokenizer: Tokenizer | None, seed: int) -> Texts:
    """Of known length: by the server's count, or the tokenizer's where the server gives none."""
    rng = np.random.default_rng([seed, 2])
    texts = Texts() if tokenizer is None else texts_of(tokenizer, rng)
    counts = []
    for sample in texts.samples(rng):
        answer = await send(Request(sample, input_length=1, output_length=1), 0.0, 0.0)
        if answer.failure is not None:
            raise FailedError(f"the first request failed: {answer.failure}")
        counts.append(answer.prompt_tokens)
    return texts if None in counts else texts.fitted(counts)


async def _warm_up(
    send: Send, texts: Texts, like: Sequence[Request], args: argparse.Namespace
) -> None:
    """Requests of the same input lengths, whose text is not asked again."""
    rng = np.random.default_rng([args.seed, 3])
    requests = [
        replace(
            request,
            prompt=texts.prompt(rng, request.input_length),
            output_length=min(request.output_length, WARMUP_OUTPUT_LENGTH),
        )
        for request in like
    ]
    warmed = await run(send, requests, [0.0] * len(requests), args.max_concurrency)
    failures = [answer.failure for answer in warmed.answers if answer.failure is not None]
    if failures:
        raise FailedError(f"{len(failures)} of {len(requests)} warm-up requests: {failures[0]}")


def _progress(console: Console) -> Progress:
    """Drawn twice a second: oftener it would take time from the streams."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("[red]{task.fields[failed]}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
        refresh_per_second=2,
    )


def _pace(args: argparse.Namespace, paced: bool) -> str:
    """How requests came, in words."""
    if args.request_rate is not None and math.isfinite(args.request_rate):
        text = f"{args.request_rate:g} requests/s"
    else:
        text = f"the trace's times x {args.trace_speed:g}" if paced else "all at once"
    return text + (f", at most {args.max_concurrency} at a time" if args.max_concurrency else "")


def main(argv: Sequence[str] | None = None) -> None:
    """Exit code 1 if the server does not serve or no answer came whole, 2 for wrong options."""
    args = parse(argv)
    console, errors = Console(width=110), Console(stderr=True)
    try:
        result = uvloop.run(measure(args, errors))
    except FailedError as error:
        errors.print(f"{_url(args)}: {escape(str(error))}", style="red")
        sys.exit(1)
    except (ModelNotFoundError, TokenizerError, ValueError, OSError) as error:
        errors.print(escape(str(error)), style="red")
        sys.exit(2)
    except (KeyboardInterrupt, asyncio.CancelledError):
        sys.exit(130)
    figures = Figures.of(result.run, result.paced)
    title = f"{args.dataset_name}, {_pace(args, result.paced)}, {args.backend}: {result.model}"
    console.print(figures.render(title))
    if args.output:
        options = {name: str(value) for name, value in vars(args).items() if name != "api_key"}
        facts = {"cpu": cpu()}
        write_document(
            args.output,
            facts,
            options=options,
            model=result.model,
            figures=figures.document(),
            requests=request_documents(result.run.answers),
        )
        console.print(f"written to {args.output}")
    if args.plot:
        args.plot.write_text(draw(figures, title))
        console.print(f"written to {args.plot}")
    sys.exit(0 if figures.completed else 1)


if __name__ == "__main__":
    main()
