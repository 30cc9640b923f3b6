"""Exact search in a folder of embeddings against faiss' `IndexFlatIP`: 64 queries at once among
1,000,000 vectors of 512 dimensions.

    DIPTYCH_BENCH_ROWS=1000000 python -m benchmarks search

Both compare the same vectors (those of `benchmarks.stores`, with more dimensions) by as many threads,
and must find the same scores. diptych reads them from its folder through a memory map, whose pages
the warm-up brings into the system's cache; faiss holds a copy in memory.
"""

import os
from pathlib import Path
from tempfile import TemporaryDirectory

import faiss
import numpy as np
import torch

from benchmarks.measure import interleaved, judged, roofline
from benchmarks.stores import ROWS, K, drawn, write_embeddings
from diptych.embeddings.index import Index

PACKAGES = ("faiss-cpu",)
DIMENSION = 512
QUERIES = 64
BAR = 1.1


def run(rows: int | None = None, pairs: int = 7) -> list[dict]:
    count = rows or int(os.environ.get("DIPTYCH_BENCH_ROWS", ROWS))
    queries = torch.from_numpy(drawn(QUERIES, seed=2, dimension=DIMENSION))
    array = queries.numpy()
    faiss.omp_set_num_threads(torch.get_num_threads())
    with TemporaryDirectory() as temporary:
        folder = Path(temporary) / "emb"
        write_embeddings(folder, count, dimension=DIMENSION)
        ours = Index.open(folder, exact=True)
        flat = faiss.IndexFlatIP(DIMENSION)
        for vectors in ours.vectors:
            flat.add(np.ascontiguousarray(vectors))
        scores = torch.from_numpy(flat.search(array, K)[0])
        torch.testing.assert_close(ours.top(queries, K)[0], scores, rtol=0, atol=1e-5)
        times = interleaved(lambda: ours.top(queries, K), lambda: flat.search(array, K), pairs)
    share = roofline(2 * QUERIES * count * DIMENSION, times["ours"])
    what = f"exact search, {count:,} x {DIMENSION}, {QUERIES} queries, against faiss Flat"
    return [judged(what, "CPU s", times, BAR, share)]
