"""Prefetching: threads decode the next batch while the caller computes. Pillow releases the GIL."""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

from diptych.data.sample import BadSample

Item = TypeVar("Item")
Made = TypeVar("Made")

THREADS = 4


def ahead(
    make: Callable[[Item], Made], items: Sequence[Item], batch_size: int
) -> Iterator[list[Made | BadSample]]:
    """Yield `make(item)` of each item, in order and in batches; a BadSample that it raises is
    yielded in its place.

    At most two batches are in memory. Any other exception is raised when its item is due.

    >>> list(ahead(str, [1, 2, 3], batch_size=2))
    [['1', '2'], ['3']]
    """

    def attempt(item: Item) -> Made | BadSample:
        try:
            return make(item)
        except BadSample as bad:
            return bad

    with ThreadPoolExecutor(THREADS) as pool:
        under_way: deque[list[Future[Made | BadSample]]] = deque()
        for start in range(0, len(items), batch_size):
            under_way.append(
                [pool.submit(attempt, item) for item in items[start : start + batch_size]]
            )
            if len(under_way) > 1:
                yield [job.result() for job in under_way.popleft()]
        while under_way:
            yield [job.result() for job in under_way.popleft()]
