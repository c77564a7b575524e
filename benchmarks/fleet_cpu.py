"""A fleet of two workers on a CPU: time to ready, and how much of the prompts is cached, by policy.

    python -m benchmarks.fleet_cpu

The traffic is several groups of chats; the chats of a group share a long system prompt. With
`cache_aware` a group stays with one worker, with `round_robin` all compute all system prompts.
"""

from __future__ import annotations

import argparse
import asyncio
import random

import httpx

from .report import Figure, publish
from .servers import running

GROUPS = 6
CHATS_PER_GROUP = 8
TOPICS = ("sailing", "bread", "chess", "gardens", "trains", "weather")


def system_prompt(group: int) -> str:
    """About 400 tokens that only chats of this group begin with."""
    rules = " ".join(
        f"Rule {i} about {TOPICS[group]}: answer briefly, stay polite and never guess number {i}."
        for i in range(24)
    )
    return f"You are an expert on {TOPICS[group]}. {rules}"


async def cached_share(url: str, seed: int) -> float:
    """Cached prompt tokens as a share (%) of all prompt tokens, fleet-wide, in one round."""
    chats = [(group, chat) for group in range(GROUPS) for chat in range(CHATS_PER_GROUP)]
    random.Random(seed).shuffle(chats)
    prompt_tokens = cached_tokens = 0
    async with httpx.AsyncClient(timeout=None) as client:
        await client.post(f"{url}/flush_cache")
        for group, chat in chats:
            body = {
                "model": "default",
                "messages": [
                    {"role": "system", "content": system_prompt(group)},
                    {"role": "user", "content": f"Question {chat}: what should I know first?"},
                ],
                "max_tokens": 4,
                "temperature": 0,
            }
            answer = await client.post(f"{url}/v1/chat/completions", json=body)
            usage = answer.raise_for_status().json()["usage"]
            prompt_tokens += usage["prompt_tokens"]
            cached_tokens += usage["prompt_tokens_details"]["cached_tokens"]
    return 100 * cached_tokens / prompt_tokens


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model-path", default="smollm2-135m")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args(argv)
    fleet = ("--model-path", args.model_path, "--dp-size", "2", "--enable-cache-report")
    fleet += ("--router-prometheus-port", "0")
    ready: list[float] = []
    shares: dict[str, list[float]] = {"cache_aware": [], "round_robin": []}
    for run in range(args.runs):
        for policy, runs in shares.items():
            with running("router_py.launch_server", *fleet, "--router-policy", policy) as server:
                ready.append(server.seconds_to_ready)
                runs.append(asyncio.run(cached_share(server.url, seed=run)))
    round_robin = Figure("cached share of prompts, round_robin", "%", shares["round_robin"])
    aware = Figure("cached share of prompts, cache_aware", "%", shares["cache_aware"])
    ratio = aware.median / round_robin.median
    figures = [
        Figure("launch_server --dp-size 2 to ready", "s", ready),
        round_robin,
        Figure(aware.what, aware.unit, aware.runs, ratio, "round_robin"),
    ]
    publish("fleet_cpu", f"{args.model_path}, two workers on this machine", figures)


if __name__ == "__main__":
    main()
