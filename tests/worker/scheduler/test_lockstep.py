"""A scheduler that is told what rank 0 was told does what rank 0 does."""

from __future__ import annotations

import functools
import multiprocessing.connection
import random
import threading

import numpy as np
import pytest

from worker.scheduler.lockstep import LeadingScheduler, follow

from .fake_engine import FakeEngine


class Told:
    """In the place of the followers: keeps what they are told."""

    def __init__(self) -> None:
        self.frames: list[bytes] = []

    def tell(self, frame: bytes) -> None:
        self.frames.append(frame)

    def replay(self, engine: FakeEngine) -> None:
        """Have `engine` follow it all, to the end."""
        inbox, outbox = multiprocessing.connection.Pipe(duplex=False)

        def write() -> None:
            with outbox:
                for frame in self.frames:
                    outbox.send_bytes(frame)

        writer = threading.Thread(target=write)
        writer.start()
        with inbox:
            follow(engine.scheduler, inbox)
        writer.join()


def computed(engine: FakeEngine) -> list[tuple]:
    """Every step: who decodes, who is prefilled how far, and with which seeds."""
    return [
        (
            [(request.rid, request.seed) for request in step.decodes],
            [(chunk.request.rid, chunk.start, chunk.end) for chunk in step.prefills],
        )
        for step in engine.steps
    ]


@pytest.mark.parametrize("overlap", [False, True])
def test_a_follower_computes_the_same_steps_with_the_same_slots(overlap: bool) -> None:
    told, choice = Told(), random.Random(1)
    lead = functools.partial(LeadingScheduler, followers=told)
    options = {"overlap": overlap, "chunked_prefill_size": 16, "schedule_conservativeness": 0.1}
    leader = FakeEngine(160, make_scheduler=lead, **options)
    for number in range(60):
        prompt = [choice.randrange(50) for _ in range(choice.randint(1, 40))]
        leader.add(f"r{number}", prompt, choice.randint(1, 60), temperature=choice.choice([0, 1]))
        for _ in range(choice.randint(0, 4)):
            leader.step()
        leader.scheduler.abort(f"r{choice.randrange(200)}")
        if number == 30:
            leader.run()
            assert leader.scheduler.flush_cache()
    leader.run()
    assert leader.scheduler.counters.retractions > 0

    follower = FakeEngine(160, **options)
    told.replay(follower)
    assert len(leader.steps) > 100
    assert computed(follower) == computed(leader)
    assert np.array_equal(follower.memory, leader.memory)
    assert follower.scheduler.counters == leader.scheduler.counters


def test_with_several_ranks_a_step_that_fails_ends_the_process() -> None:
    engine = FakeEngine(tp_size=2)
    engine.add("a", [1, 2, 3])
    engine.fail_next = RuntimeError("the other ranks have computed it")
    with pytest.raises(RuntimeError, match="have computed it"):
        engine.step()
