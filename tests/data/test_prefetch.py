"""Decoding ahead: order, batches, damage in its place, errors where they belong."""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from diptych.data.prefetch import ahead
from diptych.data.sample import BadSample


@given(count=st.integers(0, 40), batch=st.integers(1, 9))
def test_results_come_in_order_and_in_batches(count, batch):
    batches = list(ahead(lambda item: item * 2, range(count), batch))
    assert [made for part in batches for made in part] == [2 * item for item in range(count)]
    assert all(len(part) == batch for part in batches[:-1])


def test_a_damaged_item_stands_in_its_place():
    def make(item):
        if item == 3:
            raise BadSample("truncated")
        return item

    flat = [made for part in ahead(make, range(6), 4) for made in part]
    assert isinstance(flat[3], BadSample)
    assert flat[:3] + flat[4:] == [0, 1, 2, 4, 5]


def test_other_errors_are_raised():
    with pytest.raises(ZeroDivisionError):
        list(ahead(lambda item: 1 / item, range(3), 2))


def test_the_next_batch_is_under_way_while_one_is_used():
    begun = threading.Event()

    def make(item):
        if item == 2:
            begun.set()
        return item

    batches = ahead(make, range(6), 2)
    assert next(batches) == [0, 1]
    assert begun.wait(10)
