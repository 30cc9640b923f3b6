"""Stores of vectors against faiss' exact `IndexFlatIP` in memory: recall, time, memory and disk.

    DIPTYCH_BENCH_ROWS=1000000 python -m benchmarks stores

The vectors are drawn, of 192 dimensions: unequal clusters in groups, with a spectrum that falls as
that of embeddings does. Neither are they noise, of which no index finds the nearest in few lists,
nor do they stand for any data set. Queries are further draws.

- **Time** is that of one batch of queries, on as many threads on both sides, interleaved.
- **Memory** is by how much the resident set of a fresh process is larger, at its peak, than before it
  opens the store and answers 1,000 queries in batches. Of a mapped file this counts the pages that
  are mapped. It does not count what the system's cache keeps of files besides, which other programs
  get when they need it; `read_bytes` is what it got from the disk if nothing was in it before.
- **Building** is in a process of its own, in CPU seconds.
"""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import faiss
import numpy as np
import torch
from torch import Tensor

from benchmarks.measure import (
    against,
    forget_peak,
    held,
    in_child,
    interleaved,
    judged,
    peak_bytes,
)
from diptych.embeddings.build import build_index
from diptych.embeddings.index import Index
from diptych.embeddings.lance.build import write_store
from diptych.embeddings.lance.store import Store as Table
from diptych.embeddings.lance.table import library
from diptych.embeddings.layout import Manifest
from diptych.embeddings.writer import PART_ROWS, Row, write_metadata

PACKAGES = ("faiss-cpu", "pylance")
ROWS = 1_000_000
DIMENSION = 192
QUERIES = 1_000  # for recall and memory
TIMED = 200
K = 10
RECALL = 0.95
MEMORY_BAR = 1 / 4
_GROUPS = 200
_CLUSTERS = 20_000
_AT_ONCE = 100  # queries

Search = Callable[[Tensor, int], tuple[Tensor, Tensor]]
"""Takes queries (Q, E) and k; returns cosines and rows (Q, k)."""


@dataclass(frozen=True, kw_only=True)
class Store:
    """One way to keep vectors.

    `build(emb, place)` writes the vectors of a folder of embeddings to a new place and returns what
    is worth noting; `search(place)` opens it. `kept(place)` are its files, beside those of `emb`.
    `bar` is the most memory, as a share of Flat's.
    """

    name: str
    build: Callable[[Path, Path], dict[str, Any]]
    search: Callable[[Path], Search]
    kept: Callable[[Path], list[Path]]
    bar: float | None = None


def _build_flat(emb: Path, place: Path) -> dict[str, Any]:
    place.mkdir()
    exact = Index.open(emb, exact=True)
    flat = faiss.IndexFlatIP(exact.manifest.dimension)
    for vectors in exact.vectors:
        flat.add(np.ascontiguousarray(vectors))
    faiss.write_index(flat, str(place / "flat.faiss"))
    return {}


def _search_flat(place: Path) -> Search:
    flat = faiss.read_index(str(place / "flat.faiss"))

    def search(queries: Tensor, k: int) -> tuple[Tensor, Tensor]:
        scores, rows = flat.search(queries.numpy(), k)
        return torch.from_numpy(scores), torch.from_numpy(rows)

    return search


def _indexed(compress: bool) -> Callable[[Path, Path], dict[str, Any]]:
    def build(emb: Path, place: Path) -> dict[str, Any]:
        for path in emb.rglob("*"):  # the same files under another name, for an index of its own
            if path.is_file():
                copy = place / path.relative_to(emb)
                copy.parent.mkdir(parents=True, exist_ok=True)
                copy.hardlink_to(path)
        state = build_index(place, k=K, compress=compress)
        return {"lists": state.lists, "nprobe": state.nprobe, "candidates": state.candidates}

    return build


def _search_index(place: Path) -> Search:
    return Index.open(place).top


def _build_table(emb: Path, place: Path) -> dict[str, Any]:
    state = write_store(emb, f"lancedb:{place}", k=K).state
    assert state is not None
    return {"lists": state.lists, "nprobe": state.nprobe, "candidates": state.candidates}


def _search_table(place: Path) -> Search:
    return Table.open(f"lancedb:{place}").top


def _files(pattern: str) -> Callable[[Path], list[Path]]:
    return lambda place: [path for path in place.rglob(pattern) if path.is_file()]


FLAT = Store(name="Flat", build=_build_flat, search=_search_flat, kept=_files("*"))
STORES = (
    Store(
        name="index",
        build=_indexed(False),
        search=_search_index,
        kept=_files("index*"),
    ),
    Store(
        name="index --compress",
        build=_indexed(True),
        search=_search_index,
        kept=_files("index*"),
        bar=MEMORY_BAR,
    ),
    Store(
        name="lancedb",
        build=_build_table,
        search=_search_table,
        kept=_files("*"),  # the vectors too, which need not be on this machine
    ),
)


def run(rows: int | None = None, pairs: int = 7) -> list[dict]:
    """Two lines a store: time and memory."""
    count = rows or int(os.environ.get("DIPTYCH_BENCH_ROWS", ROWS))
    queries = torch.from_numpy(drawn(QUERIES, seed=2))
    with TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_embeddings(folder / "emb", count)
        flat = _measured(FLAT, folder, queries)
        search = FLAT.search(folder / FLAT.name)
        worst = search(queries, K)[0][:, -1:]
        lines = []
        for store in STORES:
            found = _measured(store, folder, queries)
            lines += _compared(store, folder, found, flat, search, queries, worst, count, pairs)
        return lines


def _measured(store: Store, folder: Path, queries: Tensor) -> dict[str, Any]:
    """Build a store and answer the queries with it, in a process each."""
    built = in_child(building, store.name, folder)
    memory = in_child(answering, store.name, folder / store.name, queries.numpy())
    kept = sum(path.stat().st_size for path in store.kept(folder / store.name))
    return {**built, **memory, "disk_bytes": kept}


def _compared(
    store: Store,
    folder: Path,
    found: dict[str, Any],
    flat: dict[str, Any],
    search: Search,
    queries: Tensor,
    worst: Tensor,
    count: int,
    pairs: int,
) -> list[dict]:
    ours = store.search(folder / store.name)
    recall = float((ours(queries, K)[0] >= worst - 1e-6).float().mean())
    few = queries[:TIMED]
    times = interleaved(lambda: ours(few, K), lambda: search(few, K), pairs)
    what = f"{store.name}, {count:,} rows, recall@{K} {recall:.4f}"
    line = judged(f"{what}, {len(few)} queries", "CPU s", times, None)
    memory = against(found["memory_bytes"], flat["memory_bytes"])
    held_line = judged(f"{what}, memory", "bytes", memory, store.bar)
    if store.bar is not None:
        held_line["met"] = held_line["met"] and recall >= RECALL
    told = {"recall": recall, **found, "flat": flat}
    return [{**line, **told}, held_line]


def building(name: str, folder: Path) -> dict[str, Any]:
    """Build a store by name; the CPU seconds that this took."""
    [store] = [store for store in (FLAT, *STORES) if store.name == name]
    start = time.process_time()
    told = store.build(folder / "emb", folder / name)
    return {**told, "build_cpu_seconds": time.process_time() - start}


def answering(name: str, place: Path, queries: np.ndarray) -> dict[str, int]:
    """Open a store and answer the queries; the bytes of this process's peak beyond what it held
    before, and those that were read from the disk."""
    [store] = [store for store in (FLAT, *STORES) if store.name == name]
    asked = torch.from_numpy(queries).split(_AT_ONCE)
    _warm()
    for path in place.rglob("*"):
        if path.is_file():
            _uncache(path)
    forget_peak()
    before = held()
    read = _read_bytes()
    search = store.search(place)
    for batch in asked:
        search(batch, K)
    return {"memory_bytes": peak_bytes() - before, "read_bytes": _read_bytes() - read}


def _warm() -> None:
    """Load what any search loads, such as the kernels of a product and the reader of Parquet."""
    import pyarrow.parquet  # noqa: F401

    library()
    flat = faiss.IndexFlatIP(DIMENSION)
    flat.add(np.ones((100, DIMENSION), np.float32))
    flat.search(np.ones((_AT_ONCE, DIMENSION), np.float32), K)
    torch.ones(_AT_ONCE, DIMENSION).sum(1).sort()


def _uncache(path: Path) -> None:
    """Let the system's cache forget a file."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
        os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(handle)


def _read_bytes() -> int:
    text = Path("/proc/self/io").read_text(encoding="ascii")
    return int(text.partition("\nread_bytes:")[2].split()[0])


def drawn(count: int, seed: int, dimension: int = DIMENSION) -> np.ndarray:
    """Unit vectors (count, dimension), the same for a seed."""
    scale = (1 + np.arange(dimension, dtype=np.float32)) ** -0.5
    scale /= np.linalg.norm(scale)

    def normal(rng: np.random.Generator, rows: int) -> np.ndarray:
        return rng.standard_normal((rows, dimension), dtype=np.float32) * scale

    shared = np.random.default_rng(0)
    groups = normal(shared, _GROUPS)
    clusters = groups[shared.integers(0, _GROUPS, _CLUSTERS)] + 0.7 * normal(shared, _CLUSTERS)
    share = (1 + np.arange(_CLUSTERS)) ** -0.5
    own = np.random.default_rng(seed)
    of = own.choice(_CLUSTERS, count, p=share / share.sum())
    vectors = clusters[of] + normal(own, count)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def write_embeddings(
    emb: Path,
    count: int,
    model: str = "drawn",
    identity: str = "sha256:drawn",
    dimension: int = DIMENSION,
) -> None:
    """Write a folder as `diptych embed` does, of drawn vectors."""
    for kind in ("img_emb", "metadata"):
        (emb / kind).mkdir(parents=True)
    starts = range(0, count, PART_ROWS)
    digits = len(str(len(starts) - 1))
    for number, start in enumerate(starts):
        rows = range(start, min(start + PART_ROWS, count))
        name = f"{number:0{digits}d}"
        vectors = drawn(len(rows), seed=100 + number, dimension=dimension)
        np.save(emb / f"img_emb/img_emb_{name}.npy", vectors)
        metadata = [Row(key=str(row), position=row, image_path="", caption=None) for row in rows]
        write_metadata(emb / f"metadata/metadata_{name}.parquet", metadata, {})
    Manifest(
        model=model,
        identity=identity,
        dimension=dimension,
        count=count,
        texts=None,
        source="drawn",
        damaged={},
    ).write(emb)
