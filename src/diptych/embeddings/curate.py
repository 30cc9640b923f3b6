"""Curation: of a large pool of images, those that are nearest to images of tasks of interest.

Images of the pool that look like a test image are dropped first, so that every query gets `k` others.
An image is kept if it is among the k of the pool with the highest cosine for one of the queries.
`diptych data curate` writes the list that `filtered:FILE` reads.

Source: as Oquab et al. 2023 (DINOv2) and Maninis et al. 2025 (TIPS) select their data.

Dimensions: N samples of the pool, Q queries, E embedding.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.duplicates import shown_elsewhere
from diptych.data.sample import Sample, Source
from diptych.data.sources import filtered
from diptych.embeddings.nearest import TILE, nearest
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, embed_images
from diptych.methods.abilities import require

REASONS = ("far", "test", "bad")
"""Why a sample is left out: it is near to no query, it looks like a test image, it cannot be read."""
_QUERIES = 1024  # that are compared at once


def curate(
    pool: Source,
    model: Any,
    queries: Sequence[Source],
    *,
    k: int = 8,
    drop_near: Sequence[Source] = (),
    batch_size: int = 64,
    progress: Progress | None = None,
) -> np.ndarray:
    """Choose the samples of a pool whose images `main` are nearest to those of the queries: (N,) int8,
    -1 for one that is kept, else the index in REASONS of why it is not.

    `drop_near` are sources with test images, whose near-duplicates are dropped
    (`data.duplicates.shown_elsewhere`). Raises InputError for a model that embeds no images, and if
    no image of the pool or of the queries can be used.
    """
    require(model, "embed_images", "curation", model.name)
    shown = shown_elsewhere(pool, drop_near) if drop_near else set()
    steps = Steps(progress, len(pool) + sum(len(each) for each in queries))
    how: dict[str, Any] = {"exact": False, "batch_size": batch_size, "steps": steps}
    asked = torch.cat([embed_images(model, each, _key, **how).vectors for each in queries])
    embedded = embed_images(model, pool, _key, **how)
    places = {key: at for at, key in enumerate(pool.keys())}
    rows = np.array([places[key] for key in embedded.facts])
    tested = np.array([key in shown for key in embedded.facts])
    if tested.all():
        raise InputError(f"all images of {pool.name} look like test images; name another pool")
    reasons = np.full(len(pool), REASONS.index("bad"), np.int8)
    reasons[rows] = np.where(tested, REASONS.index("test"), REASONS.index("far"))
    candidates = embedded.vectors[torch.from_numpy(~tested)].numpy()
    reasons[rows[~tested][_nearest_of_any(asked, candidates, k)]] = -1
    return reasons


def _key(sample: Sample) -> str:
    return sample.key


def _nearest_of_any(queries: Tensor, pool: np.ndarray, k: int) -> np.ndarray:
    """Return the rows of the pool (N, E) that are among the k nearest of a query (Q, E)."""
    starts = range(0, len(pool), TILE)
    rows: set[int] = set()
    for some in queries.split(_QUERIES):
        tiles = ((np.arange(at, min(at + TILE, len(pool))), pool[at : at + TILE]) for at in starts)
        rows.update(nearest(some, k, tiles)[1].flatten().tolist())
    return np.array(sorted(rows), np.int64)


def write(path: Path, spec: str, pool: Source, reasons: np.ndarray) -> None:
    """Write the list of what `curate` kept of a pool, opened from `spec`, with all texts of each
    sample."""
    samples = np.arange(len(pool))
    filtered.write(path, spec, pool, "", samples, np.zeros_like(samples), reasons)
