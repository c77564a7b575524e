"""Running requests stand beside those whose slots they share, whoever comes and goes."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from worker.cache.kv_cache import KVCache
from worker.cache.radix_cache import common_prefix_length
from worker.messages import SamplingParams
from worker.scheduler.prefix_order import PrefixOrder
from worker.scheduler.request import Request
from worker.scheduler.running import RunningRequests
from worker.scheduler.step import sequence_of


def admitted(cache: KVCache, number: int, prompt: list[int]) -> Request:
    """A request whose prompt is computed, but not published yet, and that has generated a token."""
    request = Request.create(
        f"r{number}",
        prompt,
        SamplingParams(max_new_tokens=8),
        eos_token_ids=(),
        arrival=number,
        seed=0,
        stream_interval=1,
    )
    request.sequence = cache.begin(cache.match(request.text[:-1]))
    assert cache.grow(request.sequence, request.length + 1)
    request.sequence.computed = request.length
    return request


def check(cache: KVCache, order: PrefixOrder, expected: set[Request]) -> None:
    """`order` has the `expected` requests, and says of any two what the page table says."""
    assert len(order.requests) == len(expected)
    assert set(order.requests) == expected
    assert order.shared_lens.dtype == np.int32
    assert not order.shared_lens[:1].any()
    slots = [cache.slots(sequence_of(r), 0, r.length) for r in order.requests]
    for i, j in itertools.combinations(range(len(slots)), 2):
        assert order.shared_lens[i + 1 : j + 1].min() == common_prefix_length(slots[i], slots[j])


@settings(max_examples=150, deadline=None)
@given(
    data=st.data(),
    page_size=st.sampled_from([1, 4]),
    disabled=st.sampled_from([False, False, True]),
    at_once=st.integers(1, 12),
    leavers=st.integers(0, 2),
)
def test_the_order_is_what_the_page_table_says(data, page_size, disabled, at_once, leavers):
    cache = KVCache(1600, 41, 40, page_size=page_size, disable_radix_cache=disabled)
    running, expected = RunningRequests(), set()
    prompts = st.lists(st.integers(0, 1), min_size=1, max_size=24)
    for number in range(40):
        request = admitted(cache, number, data.draw(prompts))
        running.add(request)  # as the scheduler does: published a moment later, unless it ends
        expected.add(request)
        cache.publish(sequence_of(request), request.text)
        by_arrival = sorted(expected, key=lambda request: request.arrival)
        for leaving in data.draw(st.sets(st.sampled_from(by_arrival), max_size=leavers)):
            expected.discard(leaving)
            running.remove(leaving)
            cache.end(sequence_of(leaving), leaving.text)
            leaving.sequence = None
        assert len(running) == len(expected)
        assert set(running) == expected
        if number % at_once == 0:
            order = running.in_prefix_order()
            check(cache, order, expected)
            assert running.in_prefix_order() is order
            count = len(expected)
            wanted = data.draw(st.lists(st.booleans(), min_size=count, max_size=count))
            check(cache, order.only(wanted), set(itertools.compress(order.requests, wanted)))


def test_a_request_that_was_retracted_comes_back_in_one_place():
    cache, running = KVCache(256, 8, 40), RunningRequests()
    requests = [admitted(cache, i, [1, 2, 3, 4, i]) for i in range(4)]
    for request in requests:
        cache.publish(sequence_of(request), request.text)
        running.add(request)
    check(cache, running.in_prefix_order(), set(requests))
    back = requests[1]
    running.remove(back)
    cache.end(sequence_of(back), back.text)
    back.sequence = cache.begin(cache.match(back.text))
    running.add(back)
    assert len(running) == 4
    check(cache, running.in_prefix_order(), set(requests))
    running.remove(back)
    running.add(back)
    running.remove(back)
    check(cache, running.in_prefix_order(), set(requests) - {back})


def test_a_prefix_that_is_split_later_leaves_the_order_right():
    cache, running = KVCache(256, 8, 40), RunningRequests()
    prompts = [[1] * 20, [1] * 12 + [2] * 8, [1] * 4 + [3] * 8, [1] * 20 + [4], [1] * 12 + [2, 5]]
    requests = []
    for number, prompt in enumerate(prompts):
        requests.append(admitted(cache, number, prompt))
        cache.publish(sequence_of(requests[-1]), requests[-1].text)
        running.add(requests[-1])
        check(cache, running.in_prefix_order(), set(requests))
    assert sorted(running.in_prefix_order().shared_lens) == [0, 4, 12, 13, 20]
