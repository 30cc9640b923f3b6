"""Work of many threads, done in batches by one."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from queue import Empty, SimpleQueue
from threading import Thread
from time import monotonic
from typing import Generic, TypeVar

T = TypeVar("T")
R = TypeVar("R")


class Batched(Generic[T, R]):
    """Calls `run` on lists of up to `max_size` items, in a thread of its own.

    A batch is whatever has arrived while the previous one was computed, so that a single request
    does not wait for others. If `run` fails on a batch of several, it is called on each item alone,
    and only the items at fault fail.

    >>> squares = Batched(lambda numbers: [number**2 for number in numbers])
    >>> squares.ask([2, 3], seconds=5)
    [4, 9]
    >>> squares.close()
    """

    def __init__(self, run: Callable[[list[T]], Sequence[R]], max_size: int = 64):
        self.run = run
        self.max_size = max_size
        self.batches = 0
        self.items = 0
        self._queue: SimpleQueue[tuple[T, Future[R]] | None] = SimpleQueue()
        self._thread = Thread(target=self._work, daemon=True)
        self._thread.start()

    def ask(self, items: Sequence[T], seconds: float) -> list[R]:
        """Return the result of each item. Raises TimeoutError after `seconds`, and what `run`
        raised."""
        deadline = monotonic() + seconds
        futures = []
        for item in items:
            future: Future[R] = Future()
            futures.append(future)
            self._queue.put((item, future))
        try:
            return [future.result(max(0.0, deadline - monotonic())) for future in futures]
        finally:
            for future in futures:
                future.cancel()  # has no effect on those that are done

    def close(self) -> None:
        """End the thread after the items that were asked for."""
        self._queue.put(None)
        self._thread.join()

    def _work(self) -> None:
        while True:
            batch = [self._queue.get()]
            while len(batch) < self.max_size and batch[-1] is not None:
                try:
                    batch.append(self._queue.get_nowait())
                except Empty:
                    break
            waiting = [
                entry
                for entry in batch
                if entry is not None and entry[1].set_running_or_notify_cancel()
            ]
            if waiting:
                self._answer(waiting)
            if batch[-1] is None:
                return

    def _answer(self, waiting: Sequence[tuple[T, Future[R]]]) -> None:
        self.batches += 1
        self.items += len(waiting)
        try:
            results = self.run([item for item, _ in waiting])
        except Exception as error:
            if len(waiting) == 1:
                waiting[0][1].set_exception(error)
                return
            for entry in waiting:
                self._answer([entry])
            return
        for (_, future), result in zip(waiting, results, strict=True):
            future.set_result(result)
