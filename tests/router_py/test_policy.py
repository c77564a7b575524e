"""The `Policy` class: the router's policies under the caller's clock."""

from __future__ import annotations

import pytest

from router_py import Policy

POLICIES = (
    "expected_cost",
    "cache_aware",
    "consistent_hash",
    "least_load",
    "power_of_two",
    "round_robin",
    "random",
)
BLOCK = 1024


def fleet(name: str, workers: int = 4, seed: int = 0) -> Policy:
    policy = Policy(name, seed=seed)
    assert [policy.add_worker() for _ in range(workers)] == list(range(workers))
    return policy


def one_after_the_other(policy: Policy, prompts: list[list[int]]) -> list[int]:
    """Where each prompt went; each is answered before the next comes."""
    workers = []
    for second, blocks in enumerate(prompts):
        length = len(blocks) * BLOCK
        assigned = policy.assign(blocks, block_bytes=BLOCK, prompt_bytes=length, now=float(second))
        assert policy.loads[assigned.worker] == 1
        policy.answered(assigned.ticket, second + 0.1)
        policy.ended(assigned.ticket, second + 0.5)
        assert sum(policy.loads) == 0
        workers.append(assigned.worker)
    return workers


@pytest.mark.parametrize("name", POLICIES)
def test_the_same_seed_makes_the_same_choices(name: str) -> None:
    prompts = [[number % 7, 100 + number] for number in range(60)]
    chosen = [one_after_the_other(fleet(name, seed=5), prompts) for _ in range(2)]
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize("name", POLICIES)
def test_a_worker_that_is_not_available_is_not_chosen(name: str) -> None:
    policy = fleet(name, workers=3)
    policy.set_available(0, False)
    policy.set_available(2, False)
    assert set(one_after_the_other(policy, [[number] for number in range(20)])) == {1}
    policy.set_available(1, False)
    with pytest.raises(RuntimeError, match="no worker is available"):
        policy.assign([1], block_bytes=BLOCK, prompt_bytes=BLOCK, now=99.0)


@pytest.mark.parametrize("name", ["expected_cost", "cache_aware"])
def test_a_prompt_returns_to_the_worker_that_holds_it(name: str) -> None:
    policy = fleet(name)
    first, *later = one_after_the_other(policy, [[1, 2, 3], [9], [1, 2, 3, 4], [1, 2, 3, 4, 5]])
    assert later[1:] == [first, first]
    again = policy.assign([1, 2, 3], block_bytes=BLOCK, prompt_bytes=3 * BLOCK, now=10.0)
    assert (again.worker, again.held_bytes, again.reason) == (first, 3 * BLOCK, "prefix")
    policy.forget(first)
    unknown = policy.assign([1, 2, 3], block_bytes=BLOCK, prompt_bytes=3 * BLOCK, now=11.0)
    assert unknown.held_bytes == 0


def test_affinity_keeps_a_session_together() -> None:
    policy = fleet("consistent_hash", workers=8)
    homes = set()
    for number in range(10):
        assigned = policy.assign(
            [number], block_bytes=BLOCK, prompt_bytes=BLOCK, now=float(number), affinity="me"
        )
        policy.ended(assigned.ticket, number + 0.5)
        homes.add(assigned.worker)
    assert len(homes) == 1


def test_mistakes_are_named() -> None:
    with pytest.raises(ValueError, match="--policy best: unknown; choose from expected_cost"):
        Policy("best")
    with pytest.raises(ValueError, match="--cache-threshold 2: must be between 0 and 1"):
        Policy("cache_aware", cache_threshold=2)
    policy = fleet("random")
    with pytest.raises(KeyError, match="no worker 7"):
        policy.forget(7)
    with pytest.raises(KeyError, match="no running request has ticket 3"):
        policy.answered(3, 0.0)
    with pytest.raises(ValueError, match="prompt_bytes 2000: more than 1 blocks of 1024 bytes"):
        policy.assign([1], block_bytes=BLOCK, prompt_bytes=2000, now=0.0)
    with pytest.raises(ValueError, match="time -1"):
        policy.assign([1], block_bytes=BLOCK, prompt_bytes=BLOCK, now=-1.0)
