"""Scenes of 64 px, from (seed, index) to facts, caption and image in pixels, against a budget: 300
a CPU second.

The other side is the budget, one second. One thread; drawings are decoded before, and their
cut-outs as the warm-up leaves them, so that new ones are still made on the way.
"""

import statistics

import numpy as np

from benchmarks.measure import judged, seconds
from diptych.data.sources import open_source

PACKAGES = ("pillow",)
BUDGET = 300  # scenes a second
OPTIONS = {"short captions": "texts=caption", "all texts, all styles": "styles=all"}


def run(count: int = BUDGET, runs: int = 7) -> list[dict]:
    rows = []
    for what, options in OPTIONS.items():
        source = open_source(f"scenes:count={(runs + 1) * count}:{options}")

        def draw(number: int, source=source) -> None:
            for at in range(number * count, (number + 1) * count):
                sample = source[at]
                assert np.asarray(sample.images["main"].decode()).shape == (64, 64, 3)
                assert sample.captions()

        draw(0)
        times = [
            seconds(lambda number=number: draw(number))[0] * BUDGET / count
            for number in range(1, runs + 1)
        ]
        numbers = {
            "ours": statistics.median(times),
            "theirs": 1.0,
            "ratio": statistics.median(times),
            "ratio_min": min(times),
            "ratio_max": max(times),
        }
        rows.append(judged(f"{BUDGET} scenes of 64 px, {what}", "CPU s", numbers, 1.0))
    return rows
