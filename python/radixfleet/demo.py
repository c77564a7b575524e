"""`radixfleet demo`: a fleet on a free port, a scripted conversation, and what the caches did."""

from __future__ import annotations

import asyncio
import sys

import httpx
from rich.console import Console
from rich.table import Table

from router_py.child_process import ChildProcess, Listener, StartFailedError, python_module

from .chat_client import Answer, ChatClient, ChatFailedError, Message
from .demo_script import CONVERSATION, LIBRARY_PROMPT, LIBRARY_QUESTIONS

STOP_SECONDS = 5.0
Row = tuple[str, Answer]


def run_demo(model_path: str, workers: str) -> int:
    """Returns the exit code; nothing is left running then."""
    try:
        asyncio.run(_run(model_path, workers))
    except (ChatFailedError, StartFailedError, httpx.HTTPError) as error:
        reason = str(error) or type(error).__name__
        print(f"error: the demonstration failed: {reason}", file=sys.stderr)
        return 1
    return 0


async def _run(model_path: str, workers: str) -> None:
    console = Console(highlight=False)
    command = python_module("router_py.launch_server", "--model-path", model_path)
    command += ["--dp-size", workers, "--port", "0", "--enable-cache-report"]
    command += ["--log-level", "warning", "--router-log-level", "warn"]
    command += ["--router-prometheus-port", "0"]
    fleet = await ChildProcess.spawn(command, Listener(progress=lambda stage, fraction: None))
    try:
        url: str = (await fleet.ready())["url"]
        console.print(f"[bold]The fleet is ready at {url}[/]")
        async with ChatClient(url, model_path) as client:
            rows = await _converse(client, console)
            rows += await _share_a_prompt(client, console)
        console.print(_table(rows))
    finally:
        await fleet.stop(STOP_SECONDS)


async def _converse(client: ChatClient, console: Console) -> list[Row]:
    """Two turns, streamed: the second prompt begins with all of the first."""
    console.rule("A conversation, as it streams")
    messages: list[Message] = []
    rows: list[Row] = []
    for turn, question in enumerate(CONVERSATION, 1):
        console.print(f"[bold cyan]user[/]       {question}")
        console.print("[bold green]assistant[/]  ", end="")
        messages.append({"role": "user", "content": question})
        answer = await client.chat(
            messages, on_text=lambda text: console.out(text, end="", highlight=False)
        )
        console.print("\n")
        messages.append({"role": "assistant", "content": answer.text})
        rows.append((f"turn {turn}", answer))
    return rows


async def _share_a_prompt(client: ChatClient, console: Console) -> list[Row]:
    """One request fills a worker's cache; the others, sent all at once, find their prefix there."""
    console.rule("Four requests with one long system prompt: one alone, then three at once")

    def ask(question: str) -> asyncio.Task[Answer]:
        messages: list[Message] = [{"role": "system", "content": LIBRARY_PROMPT}]
        return asyncio.ensure_future(
            client.chat([*messages, {"role": "user", "content": question}])
        )

    first, *others = LIBRARY_QUESTIONS
    answers = [await ask(first), *await asyncio.gather(*map(ask, others))]
    for question, answer in zip(LIBRARY_QUESTIONS, answers, strict=True):
        console.print(f"[bold cyan]user[/]       {question}")
        console.print("[bold green]assistant[/]  ", end="")
        console.out(answer.text.strip(), highlight=False)
    console.print()
    return [(f"shared prompt, {number}", answer) for number, answer in enumerate(answers, 1)]


def _table(rows: list[Row]) -> Table:
    table = Table(title="Who served what, and what was cached already")
    table.add_column("request", no_wrap=True)
    table.add_column("worker", no_wrap=True)
    for heading in ("prompt tokens", "cached tokens", "first token, ms"):
        table.add_column(heading, justify="right")
    for name, answer in rows:
        worker = answer.worker.removeprefix("http://")
        cached = f"{answer.cached_tokens} ({answer.cached_tokens / answer.prompt_tokens:.0%})"
        first_token = f"{answer.first_token_seconds * 1000:,.0f}"
        table.add_row(name, worker, str(answer.prompt_tokens), cached, first_token)
    return table
