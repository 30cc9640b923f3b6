"""Depth probe: the depth at each position of an image, predicted from frozen features there by
ridge regression.

    RMSE = sqrt( mean_p (d_p - d'_p)² )

A position's depth is the mean over its cell; cells of which half or more is unknown are left out.
Chance predicts the mean depth of the training positions.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._features import split
from diptych.evaluation.suites._patches import MOST, cell_means, laid_under, level_option, positions
from diptych.evaluation.suites._ridge import ridge

card = {
    "title": "Depth probe: the distance at each position",
    "needs": ["images.main", "arrays.depth"],
    "abilities": ["preprocess", "represent"],
}


def depth(
    model: Any,
    source: Source,
    *,
    train: Source | str | None = None,
    level: int | None = None,
    seeds: Sequence[int] = (0,),
    max_positions: int = MOST,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `rmse`, `mae` and `r2` of the depth at each position, and the chance values.

    The probe is trained on at most `max_positions` positions of `train`, a source or its spec, and tested on
    all of `source`; without `train`, `source` is split by the first seed. Depth is the array
    `depth` (H, W), NaN where it is unknown. `level` is that of the dense probe. Also returned: `n`
    test positions, `n_train`, `bad` samples by reason, and the protocol.
    """
    halves = split(source, train, seeds[0])
    bad = Counter()

    def plane(sample: Sample) -> np.ndarray:
        values = sample.arrays.get("depth")
        if values is None or np.ndim(values) != 2:
            raise BadSample("no-depth", f"{sample.key} has no depth of two dimensions")
        return laid_under(np.asarray(values, np.float64), model.preprocess, np.nan)

    steps = Steps(progress, len(halves.train) + len(halves.test))
    found = []
    for part, count in ((halves.train, max_positions), (halves.test, None)):
        x, y, owners = positions(
            model,
            part,
            plane,
            cell_means,
            bad,
            max_positions=count,
            seed=seeds[0],
            exact=exact,
            batch_size=batch_size,
            steps=steps,
            level=level,
        )
        known = np.isfinite(y)
        found.append((x[known], y[known], owners[known]))
        if not known.any():
            raise InputError(f"depth of {part.name!r} is unknown everywhere")
    protocol = protocol_of(
        "depth",
        source,
        model,
        exact=exact,
        field="depth",
        rule="ridge regression of the cell's mean depth on standardised features, strength by a fifth of the images",
        options=(
            *halves.options,
            *level_option(level),
            f"max_positions={max_positions}",
            f"seed={seeds[0]}",
        ),
    )
    (x, y, owners), (test_x, test_y, _) = found
    results = {"n": len(test_y), "n_train": len(y)} | ridge(
        x, y, test_x, test_y, owners=owners, seed=seeds[0]
    )
    return results | {"bad": dict(bad)} | describe(protocol, model)
