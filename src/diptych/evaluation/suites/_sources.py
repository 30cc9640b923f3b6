"""Several sources measured one by one, each counting as much as any other."""

from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diptych.data.sample import Source
from diptych.data.sources import Concat
from diptych.evaluation.embed import Progress, Steps
from diptych.evaluation.protocol import describe, protocol_of


def parts_of(source: Source) -> Sequence[Source]:
    """Return the sources that a source joins, or itself."""
    return source.sources if isinstance(source, Concat) else [source]


def mean_of_sources(
    suite: Callable[..., dict[str, Any]],
    model: Any,
    source: Source,
    *,
    progress: Progress | None = None,
    **how: Any,
) -> dict[str, Any]:
    """Return the means, over the joined sources, of what a suite measures of each with settings
    `how`.

    A number is averaged where it has a chance value in each source; `by_source` has those of each.
    """
    steps = Steps(progress, len(source))
    found = {}
    for part in parts_of(source):
        found[part.name] = suite(model, part, **how)
        steps.add(len(part))
    results = list(found.values())
    chances = [
        name
        for name in results[0]
        if name.startswith("chance_") and all(name in result for result in results)
    ]
    measured = [each for chance in chances for each in (chance.removeprefix("chance_"), chance)]
    bad: Counter[str] = Counter()
    for result in results:
        bad.update(result["bad"])
    protocol = protocol_of(
        results[0]["task"],
        source,
        model,
        exact=results[0]["decoding"] == "full",
        field=",".join(dict.fromkeys(result["field"] for result in results)),
        rule="mean over sources",
        options=tuple(f"source={result['protocol']}" for result in results),
    )
    return {
        "n": sum(result["n"] for result in results),
        **{name: float(np.mean([result[name] for result in results])) for name in measured},
        "by_source": {
            name: {each: result[each] for each in ("n", *measured)}
            for name, result in found.items()
        },
        "bad": dict(bad),
        **describe(protocol, model),
    }
