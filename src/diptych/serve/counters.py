"""Counters of a server, in Prometheus' text format."""

import os
import time
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from threading import Lock

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)  # seconds

Series = tuple[str, str, str, Iterable[tuple[dict[str, str], float]]]
"""Name, kind, help and the values by labels of one metric."""


class Counters:
    """Requests by route, method and status, and a histogram of their seconds by route."""

    def __init__(self) -> None:
        self.started = time.time()
        self._requests: Counter[tuple[str, str, int]] = Counter()
        self._seconds: dict[str, float] = defaultdict(float)
        self._buckets: dict[str, list[int]] = defaultdict(lambda: [0] * (len(_BUCKETS) + 1))
        self._lock = Lock()

    def request(self, route: str, method: str, status: int, seconds: float) -> None:
        """Count one request. `route` is the path with the names of its parameters, so that there
        are few of them."""
        with self._lock:
            self._requests[route, method, status] += 1
            self._seconds[route] += seconds
            self._buckets[route][bisect_left(_BUCKETS, seconds)] += 1

    def text(self, *more: Series) -> str:
        """Return all counters and those of `more`.

        >>> counters = Counters()
        >>> counters.request("/api/v1/search", "GET", 200, 0.02)
        >>> print(counters.text().splitlines()[2])
        diptych_requests_total{route="/api/v1/search",method="GET",status="200"} 1
        """
        with self._lock:
            requests = [
                ({"route": route, "method": method, "status": str(status)}, float(count))
                for (route, method, status), count in sorted(self._requests.items())
            ]
            histogram = list(self._histogram())
        lines = list(
            _lines(("diptych_requests_total", "counter", "Requests that were answered.", requests))
        )
        name = "diptych_request_seconds"
        lines += [
            f"# HELP {name} Seconds from a request's head to its reply.",
            f"# TYPE {name} histogram",
        ]
        lines += [
            f"{name}{part}{_labels(labels)} {value:.10g}" for part, labels, value in histogram
        ]
        for series in (*self._process(), *more):
            lines += _lines(series)
        return "\n".join(lines) + "\n"

    def _histogram(self) -> Iterator[tuple[str, dict[str, str], float]]:
        for route, counts in sorted(self._buckets.items()):
            total = 0
            for bound, count in zip((*_BUCKETS, float("inf")), counts, strict=True):
                total += count
                edge = "+Inf" if bound == float("inf") else f"{bound:g}"
                yield "_bucket", {"route": route, "le": edge}, float(total)
            yield "_sum", {"route": route}, self._seconds[route]
            yield "_count", {"route": route}, float(total)

    def _process(self) -> Iterator[Series]:
        memory = "process_resident_memory_bytes"
        started = "process_start_time_seconds"
        yield started, "gauge", "When the server started.", [({}, self.started)]
        if (resident := resident_bytes()) is not None:
            yield memory, "gauge", "Resident memory.", [({}, float(resident))]


def resident_bytes() -> int | None:
    """Return the resident memory of this process, where the system has /proc."""
    try:
        pages = Path("/proc/self/statm").read_text("ascii").split()[1]
    except (OSError, IndexError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _lines(series: Series) -> Iterator[str]:
    name, kind, help, values = series
    yield f"# HELP {name} {help}"
    yield f"# TYPE {name} {kind}"
    for labels, value in values:
        yield f"{name}{_labels(labels)} {value:.10g}"


def _labels(labels: dict[str, str]) -> str:
    pairs = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())
    return f"{{{pairs}}}" if pairs else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
