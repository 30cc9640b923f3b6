"""The collections, the threads and the counters of one server."""

import asyncio
import hmac
import secrets
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from diptych.serve.batched import Batched
from diptych.serve.collection import Collection
from diptych.serve.counters import Counters, Series
from diptych.serve.limits import Limits, Refused

T = TypeVar("T")


class Service:
    """What all requests of a server share. The first collection is the default.

    With a `token`, requests to the API need it.
    """

    def __init__(
        self, collections: Sequence[Collection], limits: Limits, *, token: str | None = None
    ):
        self.collections = {collection.name: collection for collection in collections}
        self.limits = limits
        self.counters = Counters()
        self.in_progress = 0
        self._token = token
        self._ticket = secrets.token_urlsafe(32)
        self._threads = ThreadPoolExecutor(limits.concurrent, "request")
        self._running = 0  # in threads, those of requests that ran out of time included

    def collection(self, name: str | None) -> Collection:
        """Return a collection, by default the first. Raises Refused if there is none."""
        if name is None:
            return next(iter(self.collections.values()))
        if name not in self.collections:
            raise Refused(404, "there is no such collection; /api/v1/collections lists them")
        return self.collections[name]

    @property
    def full(self) -> bool:
        """Whether as many requests are in progress as `Limits.concurrent`."""
        return max(self.in_progress, self._running) >= self.limits.concurrent

    async def call(self, function: Callable[[], T]) -> T:
        """Return what `function` returns in a thread. If the request runs out of time, the thread
        goes on, and counts as in progress until it ends."""
        loop = asyncio.get_running_loop()
        self._running += 1
        future = self._threads.submit(function)
        future.add_done_callback(lambda _: loop.call_soon_threadsafe(self._ended, future))
        return await asyncio.shield(asyncio.wrap_future(future))

    def _ended(self, future: Future) -> None:
        self._running -= 1

    @property
    def asks_for_token(self) -> bool:
        """Whether requests to the API need a token."""
        return self._token is not None

    def allowed(self, token: str | None, ticket: str | None) -> bool:
        """Whether a request with this token (of its header) or ticket (of its cookie) may use the
        API."""
        if self._token is None:
            return True
        return _equal(token, self._token) or _equal(ticket, self._ticket)

    def ticket(self, token: str) -> str:
        """Return the value of the cookie with which a browser goes on. Raises Refused for a wrong
        token."""
        if self._token is not None and not _equal(token, self._token):
            raise Refused(401, "this is not the token; the server's owner knows it")
        return self._ticket

    def metrics(self) -> str:
        """Return the counters in Prometheus' text format."""
        named = list(self.collections.items())
        batched: list[tuple[dict[str, str], Batched[Any, Any]]] = [
            ({"kind": "searches", "of": name}, each.top) for name, each in named
        ]
        for name, encoder in {each.encoder: (name, each.encoder) for name, each in named}.values():
            batched.append(({"kind": "texts", "of": name}, encoder.of_texts))
            batched.append(({"kind": "images", "of": name}, encoder.of_images))
        series: list[Series] = [
            (
                "diptych_requests_in_progress",
                "gauge",
                "Requests that are not answered yet.",
                [({}, float(self.in_progress))],
            ),
            (
                "diptych_rows",
                "gauge",
                "Rows of a collection.",
                [({"collection": name}, float(len(each.index))) for name, each in named],
            ),
            (
                "diptych_batches_total",
                "counter",
                "Batches that were computed.",
                [(labels, float(each.batches)) for labels, each in batched],
            ),
            (
                "diptych_batched_items_total",
                "counter",
                "Texts, images and queries in those batches.",
                [(labels, float(each.items)) for labels, each in batched],
            ),
        ]
        return self.counters.text(*series)

    def close(self) -> None:
        """End all threads. Requests in progress are answered first."""
        self._threads.shutdown(cancel_futures=True)
        for collection in self.collections.values():
            collection.close()
        for encoder in {each.encoder for each in self.collections.values()}:
            encoder.close()


def _equal(given: str | None, wanted: str) -> bool:
    return given is not None and hmac.compare_digest(given.encode(), wanted.encode())
