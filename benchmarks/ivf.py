"""Approximate search against faiss' exact `IndexFlatIP`: many placed glyphs, embedded by a trained
`clip`.

    python -m benchmarks.ivf RUN [--rows 250000] [--emb FOLDER]

makes the embeddings in FOLDER (default: a temporary one; where it exists it is taken as it is) and
prints the rows. RUN is a model of `diptych demo`. Queries are 512 glyphs of a hand that the index
does not hold, and as a second row 512 of their names. Both sides answer the same batch on the same
two threads; building is timed apart.
"""

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import torch

import diptych
from benchmarks.measure import interleaved, judged, roofline
from diptych.data.sample import Sample, Schema
from diptych.data.sources.glyphs import Glyphs
from diptych.embeddings.build import build_index
from diptych.embeddings.embed import embed_source
from diptych.embeddings.index import Index
from diptych.embeddings.ivf import State
from diptych.errors import InputError
from diptych.lab.demo.trial import FINAL, Placed
from diptych.models.model import Model
from diptych.rng import generator

PACKAGES = ("faiss-cpu",)
ROWS = 250_000
QUERIES = 512
K = 10
RECALL = 0.99
THREADS = 2
# of the build, which measures on images like its own: the queries are of a hand that it does not
# hold
ASKED = 0.998
BAR = 1 / 4


@dataclass(frozen=True)
class ManyPlaced:
    """The first `count` of the drawings of a source placed under seed 0, 1, 2, …"""

    source: Glyphs
    count: int
    name: str = "placed"

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Sample:
        seed, at = divmod(index, len(self.source))
        return Placed(self.source, seed)[at]

    def keys(self) -> Sequence[str]:
        names = self.source.keys()
        return [f"{at // len(names)}/{names[at % len(names)]}" for at in range(self.count)]

    def schema(self) -> Schema:
        return Placed(self.source, 0).schema()


def run() -> list[dict]:
    """The rows; the environment names the trained model and the size, so that `make bench` can be
    told."""
    model = os.environ.get("DIPTYCH_BENCH_RUN")
    if not model:
        raise InputError(
            "benchmarks.ivf needs a trained model; run `diptych demo`, then set DIPTYCH_BENCH_RUN=…/run"
        )
    return measure(
        model, int(os.environ.get("DIPTYCH_BENCH_ROWS", ROWS)), os.environ.get("DIPTYCH_BENCH_EMB")
    )


def measure(spec: str, count: int, folder: str | None) -> list[dict]:
    """Embed, build, and compare both kinds of queries."""
    model = diptych.load(spec)
    torch.set_num_threads(THREADS)
    faiss.omp_set_num_threads(THREADS)
    with tempfile.TemporaryDirectory() as temporary:
        emb = Path(folder or Path(temporary) / "emb")
        if not emb.exists():
            embed_source(model, ManyPlaced(FINAL.source(FINAL.learnt, *FINAL.hands), count), emb)
        start = time.process_time()
        built = build_index(emb, recall=ASKED, k=K)
        built_in = time.process_time() - start
        ours = Index.open(emb)
        exact = Index.open(emb, exact=True)
        flat = faiss.IndexFlatIP(exact.manifest.dimension)
        for vectors in exact.vectors:
            flat.add(np.ascontiguousarray(vectors))
        return [
            {
                **_compare(ours, exact, flat, built, queries, name),
                "lists": built.lists,
                "nprobe": built.nprobe,
                "build_cpu_seconds": built_in,
                "rows": len(exact),
            }
            for name, queries in _queries(model).items()
        ]


def _queries(model: Model) -> dict[str, torch.Tensor]:
    # Not the queries (seed 10,000) on which ASKED was seen to be needed.
    other = Placed(FINAL.source(FINAL.learnt, FINAL.held_out), seed=20_000)
    samples = [
        other[i] for i in generator(20_000, "queries").permutation(len(other))[:QUERIES].tolist()
    ]
    return {
        "images": model.embed_images([sample.images["main"].decode() for sample in samples]),
        "names": model.embed_texts([sample.captions()[0] for sample in samples]),
    }


def _compare(
    ours: Index, exact: Index, flat: Any, built: State, queries: torch.Tensor, name: str
) -> dict[str, Any]:
    array = np.ascontiguousarray(queries.numpy())
    worst = torch.from_numpy(flat.search(array, K)[0])[:, -1:]
    found = ours.top(queries, K)[0]
    recall = float((found >= worst - 1e-6).float().mean())  # equal cosines are equally right
    assert torch.allclose(exact.top(queries, K)[0][:, -1:], worst, atol=1e-5), (
        "the two exact searches differ"
    )
    times = interleaved(lambda: ours.top(queries, K), lambda: flat.search(array, K))
    what = f"IVF, {len(exact):,} rows, {QUERIES} {name}, recall@{K} {recall:.4f}"
    # Products with the centres, then with the rows of the lists that are read, as if lists were
    # equally long.
    compared = built.lists + len(exact) * built.nprobe / built.lists
    share = roofline(round(2 * QUERIES * exact.manifest.dimension * compared), times["ours"])
    line = judged(what, "CPU s", times, BAR, share)
    return {**line, "met": line["met"] and recall >= RECALL, "recall": recall}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("model", metavar="RUN")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--emb")
    words = parser.parse_args()
    try:
        print(json.dumps(measure(words.model, words.rows, words.emb), indent=1))
    except InputError as error:
        sys.exit(f"benchmarks.ivf: {error}")
