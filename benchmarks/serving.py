"""Answers of `diptych serve` against clip-retrieval's back end, and against faiss called alone.

    DIPTYCH_BENCH_CLIP_RETRIEVAL=…/bin/python python -m benchmarks serving

clip-retrieval wants older packages, so it has an environment of its own, whose Python is named. All
three read the same vectors (those of `benchmarks.stores`) in the same inverted lists, as many of
them, by one thread each. A request asks for the 10 nearest of one vector, without a model: `diptych
serve` gets the number of a row, clip-retrieval its vector, faiss alone a call of its `search`. One
client asks them in turns, over a new connection each time; times are by its clock. The row itself is
among the answers of the last two, which therefore get one more.
"""

import json
import os
import random
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from http.client import HTTPConnection
from pathlib import Path
from socket import socket
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import faiss
import numpy as np

import diptych
from benchmarks.measure import against, judged
from benchmarks.stores import ROWS, write_embeddings
from diptych.embeddings.build import build_index
from diptych.embeddings.index import Index
from diptych.embeddings.ivf import State
from diptych.errors import InputError

PACKAGES = ("faiss-cpu", "fastapi", "uvicorn")
REQUESTS = 2_000
ROUND = 50  # requests to one before the next has its turn
K = 10
BAR = 1.5
_PATIENCE = 120  # seconds until a server answers

# clip-retrieval would download a CLIP model, which no request here needs.
_BACK_END = """
import sys
import all_clip
all_clip.load_clip = lambda *args, **kwargs: (None, None, None)
from clip_retrieval.clip_back import clip_back
clip_back(
    indices_paths=sys.argv[1],
    port=int(sys.argv[2]),
    enable_mclip_option=False,
    provide_aesthetic_embeddings=False,
    columns_to_return=["key", "image_path", "caption"],
)
"""


def run(rows: int | None = None, requests: int = REQUESTS) -> list[dict]:
    """A line for each quantile and each other side."""
    python = os.environ.get("DIPTYCH_BENCH_CLIP_RETRIEVAL")
    if not python:
        raise InputError(
            "benchmarks.serving needs an environment with clip-retrieval; set DIPTYCH_BENCH_CLIP_RETRIEVAL=…/bin/python"
        )
    count = rows or int(os.environ.get("DIPTYCH_BENCH_ROWS", ROWS))
    with TemporaryDirectory() as temporary, ExitStack() as stack:
        folder = Path(temporary)
        emb = folder / "emb"
        tiny = diptych.load("tiny")
        write_embeddings(emb, count, model="tiny", identity=tiny.identity)
        state = build_index(emb)
        index = Index.open(emb, exact=True)
        ours = stack.enter_context(_served(emb))
        theirs = stack.enter_context(_back_end(Path(python), emb, state, folder))
        alone = _alone(emb / state.file, state)
        asked = random.Random(0).sample(range(count), requests)
        vectors = index.rows(np.array(asked))
        sides: dict[str, Callable[[int], list[int]]] = {
            "diptych": lambda at: ours(asked[at]),
            "clip-retrieval": lambda at: theirs(vectors[at]),
            "faiss": lambda at: alone(vectors[at]),
        }
        _agree(sides, asked)
        times = _times(sides, requests)
    return [
        judged(
            f"diptych serve, {count:,} rows, {name} of a request, against {side}",
            "ms",
            against(*(1000 * float(np.quantile(times[each], q)) for each in ("diptych", side))),
            BAR,
        )
        | {"lists": state.lists, "nprobe": state.nprobe}
        for side in ("clip-retrieval", "faiss")
        for name, q in (("p50", 0.5), ("p99", 0.99))
    ]


def _times(sides: dict[str, Callable[[int], list[int]]], requests: int) -> dict[str, list[float]]:
    """Seconds of every request, the sides in turns."""
    times: dict[str, list[float]] = {name: [] for name in sides}
    for start in range(0, requests, ROUND):
        for name, ask in sides.items():
            for at in range(start, min(start + ROUND, requests)):
                begun = time.perf_counter()
                ask(at)
                times[name].append(time.perf_counter() - begun)
    return times


def _agree(sides: dict[str, Callable[[int], list[int]]], asked: list[int]) -> None:
    """All sides find the same rows; the queries' own are left out, as `diptych serve` does."""
    for at in range(20):
        found = {
            name: [row for row in ask(at) if row != asked[at]][:K] for name, ask in sides.items()
        }
        assert len({tuple(rows) for rows in found.values()}) == 1, found


@contextmanager
def _served(emb: Path) -> Iterator[Callable[[int], list[int]]]:
    port = _free_port()
    command = [sys.executable, "-m", "diptych", "serve", str(emb), "--port", str(port)]
    with _running(command, port, "/api/v1/health"):

        def ask(row: int) -> list[int]:
            reply = _request(port, "GET", f"/api/v1/search?row={row}&k={K}")
            return [hit["row"] for hit in reply["results"][0]["hits"]]

        yield ask


@contextmanager
def _back_end(
    python: Path, emb: Path, state: State, folder: Path
) -> Iterator[Callable[[np.ndarray], list[int]]]:
    place = folder / "clip-retrieval"
    place.mkdir()
    (place / "metadata").symlink_to(emb / "metadata")
    lists = faiss.read_index(str(emb / state.file))
    lists.nprobe = state.nprobe
    faiss.write_index(lists, str(place / "image.index"))
    paths = folder / "indices_paths.json"
    paths.write_text(json.dumps({"emb": str(place)}), encoding="utf-8")
    port = _free_port()
    with _running([str(python), "-c", _BACK_END, str(paths), str(port)], port, "/indices-list"):

        def ask(vector: np.ndarray) -> list[int]:
            body = {
                "embedding_input": vector.tolist(),
                "modality": "image",
                "num_images": K + 1,
                "indice_name": "emb",
            }
            return [hit["id"] for hit in _request(port, "POST", "/knn-service", body)]

        yield ask


def _alone(path: Path, state: State) -> Callable[[np.ndarray], list[int]]:
    faiss.omp_set_num_threads(1)
    lists = faiss.read_index(str(path))
    lists.nprobe = state.nprobe
    return lambda vector: lists.search(vector[None], K + 1)[1][0].tolist()


@contextmanager
def _running(command: list[str], port: int, path: str) -> Iterator[None]:
    """A server in a process of one thread, once it answers; it ends with the block."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with (
        TemporaryFile() as log,
        subprocess.Popen(
            command, env=environment, stdout=subprocess.DEVNULL, stderr=log
        ) as process,
    ):
        try:
            end = time.monotonic() + _PATIENCE
            while not _answers(port, path):
                if process.poll() is not None or time.monotonic() > end:
                    log.seek(0)
                    said = log.read().decode(errors="replace").strip()
                    raise InputError(f"{command[0]}: the server did not start: {said[-300:]}")
                time.sleep(0.2)
            yield
        finally:
            process.kill()


def _answers(port: int, path: str) -> bool:
    try:
        _request(port, "GET", path)
    except OSError:
        return False
    return True


def _request(port: int, method: str, path: str, body: Any = None) -> Any:
    connection = HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = {"Content-Type": "application/json"}
        connection.request(method, path, None if body is None else json.dumps(body), headers)
        reply = connection.getresponse()
        data = reply.read()
        if reply.status != 200:
            raise InputError(f"{path} answers {reply.status}: {data[:200]!r}")
        return json.loads(data)
    finally:
        connection.close()


def _free_port() -> int:
    with socket() as bound:
        bound.bind(("127.0.0.1", 0))
        return bound.getsockname()[1]
