"""Survival: whether predicted risks order the times of events.

    C = P( r_i > r_j | T_i < T_j, event_i )

over all pairs in which the event of i was observed before time T_j (Harrell's concordance). Equal
risks count half; pairs of equal times are left out, unless only one of them had the event, which
then came first.

Source: Harrell et al. 1982.

Dimensions: N samples.
"""

from collections import Counter
from typing import Any

import numpy as np
import torch

from diptych.data.sample import Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, label_of, read_images
from diptych.evaluation.protocol import describe, protocol_of

card = {
    "title": "Survival: predicted risks and times of events",
    "needs": ["images.main", "labels"],
    "abilities": ["predict"],
}

_TILE = 1024


def ready(model: Any, source: Source, *, time: str = "time", event: str = "event") -> None:
    """Raise InputError for labels that the source lacks."""
    labels = [
        name.removeprefix("labels.") for name in source.schema() if name.startswith("labels.")
    ]
    for name in (time, event):
        if name not in labels:
            raise unknown(f"label of source {source.name!r} for survival", name, labels)


def survival(
    model: Any,
    source: Source,
    *,
    time: str = "time",
    event: str = "event",
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `c_index` of the model's predicted `risk`, and chance.

    `time` and `event` are labels: how long a sample was followed, and 1 if the event was observed
    then, 0 if not. Samples without one of them are left out. Also returned: `n` samples, `events`,
    `pairs` that can be compared, `bad` samples by reason, and the protocol.
    """
    ready(model, source, time=time, event=event)

    def known(sample: Sample) -> tuple[float, int]:
        return float(label_of(sample, time)), int(label_of(sample, event))

    bad: Counter[str] = Counter()
    risks = []
    kept: list[tuple[float, int]] = []
    steps = Steps(progress, len(source))
    for pixels, of_batch in read_images(
        model, source, known, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        found = model.predict(pixels, batch_size=batch_size)
        if "risk" not in found:
            raise InputError(
                f"survival needs a model that predicts a risk, and this one predicts {', '.join(found)}"
            )
        risks.append(found["risk"])
        kept += of_batch
    times, events = np.array(kept).T
    value, pairs = c_index(torch.cat(risks).numpy(), times, events)
    protocol = protocol_of(
        "survival",
        source,
        model,
        exact=exact,
        field=time,
        rule="Harrell's C; equal risks count half",
        options=(f"event={event}",),
    )
    results = {"n": len(times), "events": int(events.sum()), "pairs": pairs}
    return (
        results
        | {"c_index": value, "chance_c_index": 0.5, "bad": dict(bad)}
        | describe(protocol, model)
    )


def c_index(risks: np.ndarray, times: np.ndarray, events: np.ndarray) -> tuple[float, int]:
    """The concordance of risks (N,) with times (N,) and events (N,), 1 if observed, and the number
    of comparable pairs. Raises InputError if there is none.

    >>> c_index(np.array([2.0, 1.0, 0.0]), np.array([1.0, 2.0, 3.0]), np.array([1, 0, 1]))
    (1.0, 2)
    """
    risks = np.asarray(risks, np.float64)
    observed = np.flatnonzero(np.asarray(events) == 1)
    concordant = 0.0
    pairs = 0
    for start in range(0, len(observed), _TILE):
        rows = observed[start : start + _TILE]
        later = times[rows, None] < times
        later |= (times[rows, None] == times) & (np.asarray(events) != 1)
        concordant += float((later & (risks[rows, None] > risks)).sum())
        concordant += 0.5 * float((later & (risks[rows, None] == risks)).sum())
        pairs += int(later.sum())
    if not pairs:
        raise InputError(
            "no event was observed before the end of another sample's time; survival needs such pairs"
        )
    return concordant / pairs, pairs
