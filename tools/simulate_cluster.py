"""Measure what embedding costs a processor here, and simulate a cluster with it (docs/cluster.md).

python tools/simulate_cluster.py measure SOURCE    seconds an image, and a row of the join
python tools/simulate_cluster.py simulate SECONDS  hours for 100 million images, at so many an image

Seconds are those of the processor, since other processes may share the machine. The simulation gives
parts to workers as they become free. Its assumptions are the constants below.
"""

import heapq
import os
import sys
import tempfile
import time
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np
import torch

from diptych.data.sources import open_source
from diptych.embeddings import parts, writer
from diptych.embeddings.embed import embed_source
from diptych.embeddings.layout import Manifest
from diptych.embeddings.parts import Part
from diptych.embeddings.spread import number_of_parts
from diptych.embeddings.writer import Row, Writer
from diptych.methods.store import load
from diptych.models.model import Model
from diptych.towers.build import image_tower
from diptych.towers.dual import DualEncoder

IMAGES = 100_000_000
DIMENSION = 512
PART_SECONDS = 1.0  # to begin a part, to flush its files over a network, and to rename it
START_SECONDS = 20.0  # to start a worker: import torch, load the model
JOIN_SECONDS = 25e-6  # a row, by the clock of a busy machine; its processor works for 11e-6
SPEED = 0.15  # the standard deviation of the logarithm of a worker's speed
SLOW = (0.01, 3.0)  # the share of workers that are slower by a factor, on a machine that is ill
LOSS = (1 / 500, 60.0, writer.SAVE_SECONDS)  # losses a worker and hour, seconds to notice, of work


def measure(spec: str) -> None:
    """Print the seconds of an image by two models, and of a row of the join."""
    torch.set_num_threads(1)
    source = open_source(spec)
    torch.manual_seed(0)
    tower = image_tower("vit:width=768:depth=12:heads=12:patch=32")
    large = Model(DualEncoder(tower, None, DIMENSION), None, tower.preprocess, name="ViT-B/32")
    for model in (load("tiny"), large):
        with tempfile.TemporaryDirectory() as folder:
            embed_source(model, f"{spec}:part=1/20", Path(folder) / "warm")
            begun = time.process_time()
            found = embed_source(model, source, Path(folder) / "emb")
            each = (time.process_time() - begun) / found.count
            print(f"{model.name}: {1000 * each:.1f} ms an image, {1 / each:.1f} images/s")
    _measure_join(parts_count=20, rows=10_000)


def _measure_join(parts_count: int, rows: int) -> None:
    rng = np.random.default_rng(0)
    total = parts_count * rows
    settings = {"samples": total, "batch size": rows, "kinds": ["img_emb"], "model": "m"}
    vectors = rng.standard_normal((rows, DIMENSION), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as temporary:
        out = Path(temporary) / "emb"
        for number in range(1, parts_count + 1):
            part = Part(number, parts_count)
            state = writer.Progress({**settings, "part": str(part)}, position=rows)
            state.dimension = DIMENSION
            with Writer(part.folder(out), state, rows, ["img_emb"], {}) as file:
                metadata = [
                    Row(f"{number:05d}/{at:08d}", at, "", "a red cat") for at in range(rows)
                ]
                file.add(metadata, [vectors])
                file.close()
            described = Manifest(model="m", identity="m", dimension=DIMENSION, count=rows, texts=None,
                                 source="s", damaged={})  # fmt: skip
            described.write(part.folder(out))
            parts.write_record(part.folder(out), state)
        begun = time.process_time()
        wall = time.perf_counter()
        parts.merge(out)
        each = (time.process_time() - begun) / total
        wall = (time.perf_counter() - wall) / total
    print(f"joining: {1e6 * each:.1f} us a row, {1e6 * wall:.1f} by the clock, {total:,} rows")


def simulate(seconds: float, workers: int, seed: int = 0) -> tuple[float, float]:
    """Return the hours of the parts, and the share of them in which a worker computes."""
    rng = np.random.default_rng(seed)
    speed = np.exp(SPEED * rng.standard_normal(workers))
    speed = np.where(rng.random(workers) < SLOW[0], speed * SLOW[1], speed)
    count = number_of_parts(IMAGES, 64)
    work = IMAGES / count * seconds
    free = [(START_SECONDS, worker) for worker in range(workers)]
    heapq.heapify(free)
    ends = 0.0
    useful = 0.0
    for _ in range(count):
        now, worker = heapq.heappop(free)
        takes = work * speed[worker]
        losses = rng.poisson(LOSS[0] * takes / 3600)
        useful = useful + takes
        now = now + takes + PART_SECONDS + losses * (LOSS[1] + START_SECONDS + LOSS[2])
        ends = max(ends, now)
        heapq.heappush(free, (now, worker))
    return ends / 3600, useful / (ends * workers)


if __name__ == "__main__":
    what, value = sys.argv[1:]
    if what == "measure":
        measure(value)
    else:
        print("| workers | parts, h | busy | joining, h | core hours |\n|---|---|---|---|---|")
        for workers in (16, 128, 1024, 4096):
            hours, busy = simulate(float(value), workers)
            join = IMAGES * JOIN_SECONDS / 3600
            print(
                f"| {workers:,} | {hours:.1f} | {busy:.0%} | {join:.1f} | {hours * workers:,.0f} |"
            )
