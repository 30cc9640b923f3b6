"""A pass over all samples of sources, span by span: here, in processes, or on a cluster."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from diptych.data.probe import Probe
from diptych.data.sample import Source
from diptych.engines import Ray, in_order

Made = TypeVar("Made")

Workers = int | Ray
"""Who makes a pass: a number of processes of this machine, where 0 is this process, or a cluster."""

_SPAN = 64  # samples
_SPANS = 4096  # at most, on a cluster, where each costs milliseconds


def over(
    sources: Sequence[Source], looks: Sequence[Callable[[Source, range], Made]], workers: Workers
) -> Iterator[tuple[int, Made]]:
    """Yield (n, `looks[n](sources[n], span)`) for all spans of all sources, in their order.

    Sources, looks and results are pickled. Raises InputError if a node of a cluster does not read
    the same data.

    >>> list(over(["abc" * 30, "d"], [lambda source, span: len(source[span.start : span.stop])] * 2, 0))
    [(0, 64), (0, 26), (1, 1)]
    """
    if isinstance(workers, Ray):
        size = max(_SPAN, -(-sum(map(len, sources)) // _SPANS))
        probes = [Probe.of(source) for source in sources]
        work = _Work(sources, looks, probes)
        yield from in_order(workers.spread(work, _spans(sources, size)))
        return
    work = _Work(sources, looks)
    spans = _spans(sources, _SPAN)
    if workers < 1:
        yield from map(work, spans)
        return
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(work, spans)


def _spans(sources: Sequence[Source], size: int) -> list[tuple[int, range]]:
    return [
        (which, range(start, min(start + size, len(source))))
        for which, source in enumerate(sources)
        for start in range(0, len(source), size)
    ]


@dataclass
class _Work(Generic[Made]):
    """What a worker does with a span; it checks once that it reads the sources."""

    sources: Sequence[Source]
    looks: Sequence[Callable[[Source, range], Made]]
    probes: list[Probe | None] = field(default_factory=list)

    def __call__(self, item: tuple[int, range]) -> tuple[int, Made]:
        while self.probes:
            probe = self.probes[-1]
            if probe is not None:
                probe.check(self.sources[len(self.probes) - 1])
            self.probes.pop()
        which, span = item
        return which, self.looks[which](self.sources[which], span)
