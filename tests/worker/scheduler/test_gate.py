"""Orders that need an idle engine and requests keep their order; nobody is lost in between."""

from __future__ import annotations

from dataclasses import replace

import pytest

from worker.messages import (
    ControlAnswer,
    ControlOrder,
    GenerateRequest,
    GetWeight,
    OrderDone,
    ReleaseMemory,
    SamplingParams,
    UpdateWeights,
)
from worker.scheduler.gate import Gate

from .fake_engine import FakeEngine, expected_answer

UPDATE = UpdateWeights("update", "elsewhere")
LENGTH = 8


class Control:
    """In the place of the engine's: notes which requests had ended at each order."""

    released = False

    def __init__(self, engine: FakeEngine) -> None:
        self._engine = engine
        self.carried_out: list[tuple[str, list[str]]] = []

    def carry_out(self, order: ControlOrder) -> OrderDone:
        ended = [rid for rid, chunks in self._engine.chunks.items() if chunks[-1].finish]
        self.carried_out.append((order.rid, ended))
        return OrderDone(order.rid, True, "")


class Scene:
    """A fake engine behind a gate."""

    def __init__(self) -> None:
        self.engine = FakeEngine()
        self.control = self.engine.scheduler._engine = Control(self.engine)
        self.answers: list[ControlAnswer] = []
        self.gate = Gate(self.engine.scheduler, self.answers.append)

    def add(self, rid: str) -> None:
        prompt = [ord(letter) % 50 for letter in rid]
        request = GenerateRequest(rid, prompt, SamplingParams(LENGTH))
        self.engine._collect(self.gate.add(request))

    def step(self) -> None:
        self.engine._collect(self.gate.open())
        self.engine.step()

    def run(self) -> None:
        for _ in range(200):
            if self.gate.is_idle:
                return
            self.step()
        raise AssertionError("somebody waits for ever")

    def assert_answered(self, *rids: str) -> None:
        for rid in rids:
            prompt = [ord(letter) % 50 for letter in rid]
            assert self.engine.answers[rid] == expected_answer(prompt, LENGTH)


@pytest.fixture(params=[False, True], ids=["in turn", "overlap"])
def scene(request, monkeypatch) -> Scene:
    monkeypatch.setattr(FakeEngine, "overlap", request.param)
    return Scene()


def test_an_order_waits_for_the_requests_before_it_and_those_behind_wait_for_it(scene: Scene):
    for rid in ("before", "with it"):
        scene.add(rid)
    scene.step()
    scene.gate.order(UPDATE)
    scene.add("behind")
    assert scene.gate.waiting_requests == 1
    scene.run()
    assert scene.control.carried_out == [("update", ["before", "with it"])]
    assert scene.answers == [OrderDone("update", True, "")]
    scene.assert_answered("before", "with it", "behind")


def test_orders_and_requests_come_in_turn(scene: Scene):
    for number in range(3):
        scene.add(f"request {number}")
        scene.gate.order(ReleaseMemory(f"order {number}"))
    scene.run()
    requests = [f"request {number}" for number in range(3)]
    assert [(rid, len(ended)) for rid, ended in scene.control.carried_out] == [
        ("order 0", 1),
        ("order 1", 2),
        ("order 2", 3),
    ]
    scene.assert_answered(*requests)


def test_an_idle_engine_obeys_at_once(scene: Scene):
    scene.gate.order(UPDATE)
    assert not scene.gate.is_idle
    scene.step()
    assert scene.control.carried_out == [("update", [])]
    assert scene.gate.is_idle


def test_an_order_that_needs_no_idle_engine_waits_for_nobody(scene: Scene):
    scene.add("runs")
    scene.step()
    scene.gate.order(UPDATE)
    scene.gate.order(GetWeight("weight", "x", 1))
    assert scene.control.carried_out == [("weight", [])]
    scene.run()
    assert scene.control.carried_out[1:] == [("update", ["runs"])]


def test_requests_that_are_aborted_before_and_behind_an_order_hold_nothing_up(scene: Scene):
    for rid in ("before", "stays"):
        scene.add(rid)
    scene.step()
    scene.gate.order(UPDATE)
    for rid in ("gone", "behind"):
        scene.add(rid)
    scene.gate.abort("gone")
    scene.gate.abort("before")
    scene.gate.abort("never was")
    scene.run()
    assert scene.control.carried_out == [("update", ["stays"])]
    assert "gone" not in scene.engine.answers
    scene.assert_answered("stays", "behind")


def test_the_queue_behind_an_order_has_an_end(scene: Scene):
    scheduler = scene.engine.scheduler
    scheduler.options = replace(scheduler.options, max_queued_requests=2)
    scene.add("before")
    scene.step()
    scene.gate.order(UPDATE)
    for rid in ("first", "second", "third"):
        scene.add(rid)
    assert scene.engine.finish("third").status == 503
    scene.run()
    scene.assert_answered("before", "first", "second")


def test_while_memory_is_released_requests_are_refused(scene: Scene):
    scene.control.released = True
    scene.add("refused")
    assert scene.engine.finish("refused").status == 503
    scene.control.released = False
    scene.add("taken")
    scene.run()
    scene.assert_answered("taken")
