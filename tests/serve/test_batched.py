"""Batches of many threads."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from diptych.serve.batched import Batched
from diptych.serve.encoder import Recent


def test_what_arrives_meanwhile_is_one_batch():
    begun = threading.Event()
    go_on = threading.Event()
    seen = []

    def run(items):
        begun.set()
        go_on.wait(10)
        seen.append(sorted(items))
        return [item * 10 for item in items]

    batched = Batched(run, max_size=4)
    with ThreadPoolExecutor(1) as threads:
        alone = threads.submit(batched.ask, [0], 10)
        assert begun.wait(10)
        others = ThreadPoolExecutor(1).submit(batched.ask, [1, 2, 3, 4, 5, 6], 10)
        while batched._queue.qsize() < 6:
            pass
        go_on.set()
        assert alone.result() == [0]
        assert others.result() == [10, 20, 30, 40, 50, 60]
    assert seen == [[0], [1, 2, 3, 4], [5, 6]]
    batched.close()


def test_an_item_at_fault_fails_alone():
    def run(items):
        if "bad" in items:
            raise ValueError("bad")
        return [item.upper() for item in items]

    batched = Batched(run)
    with ThreadPoolExecutor(9) as threads:
        asked = [threads.submit(batched.ask, [item], 10) for item in [*"abcd", "bad", *"efgh"]]
        assert [each.result() for each in (*asked[:4], *asked[5:])] == [[c] for c in "ABCDEFGH"]
        with pytest.raises(ValueError, match="bad"):
            asked[4].result()
    batched.close()


def test_who_waits_too_long_gives_up_and_is_left_out():
    go_on = threading.Event()
    seen = []

    def run(items):
        seen.extend(items)
        go_on.wait(10)
        return items

    batched = Batched(run, max_size=1)
    with pytest.raises(TimeoutError):
        batched.ask([1, 2], seconds=0.05)
    go_on.set()
    assert batched.ask([3], seconds=10) == [3]
    assert 2 not in seen
    batched.close()


def test_the_recent_values_are_kept_up_to_their_size():
    recent = Recent(10, len)
    for name in "abc":
        recent.put(name, name * 4)
        recent.get("a")
    assert [recent.get(name) for name in "abc"] == ["aaaa", None, "cccc"]
