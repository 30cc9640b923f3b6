"""Images of noise, a small model, and processes that are killed, for tests of folders that are written in
several goes; and folders of vectors that no model made."""

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import torch
from PIL import Image

from diptych.data.sample import BadSample, Field, Sample, Text
from diptych.data.sources import open_source
from diptych.data.tokenizers import train_bpe
from diptych.embeddings.columns import arrow
from diptych.embeddings.index import Index
from diptych.embeddings.layout import Manifest
from diptych.models.model import Model
from diptych.towers.build import image_tower, text_tower
from diptych.towers.dual import DualEncoder


class Noise:
    """An image of noise; the last of every nine is damaged."""

    def __init__(self, number):
        self.number = number

    def decode(self, at_least=None):
        if self.number % 9 == 8:
            raise BadSample(("truncated", "html")[self.number % 2], "damaged")
        rng = np.random.default_rng(self.number)
        return Image.fromarray(rng.integers(0, 256, (40, 48, 3), dtype=np.uint8))

    def read(self):
        return b""


class Noises:
    """Images of noise, every third without a caption."""

    name = "noises"

    def __init__(self, count=50, prefix="n"):
        self.count, self.prefix, self.read = count, prefix, []

    def __len__(self):
        return self.count

    def __getitem__(self, i):
        self.read.append(i)
        texts = () if i % 3 == 2 else (Text(text=f"noise number {i}" + " and more" * (i % 4)),)
        return Sample(
            key=f"{self.prefix}{i}", source=self.name, images={"main": Noise(i)}, texts=texts
        )

    def keys(self):
        return [f"{self.prefix}{i}" for i in range(self.count)]

    def schema(self):
        return {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text", optional=True),
        }


def toy_model() -> Model:
    """A model of untrained towers, the same at each call."""
    torch.manual_seed(0)
    glyphs = open_source("glyphs:split=val:design=noto")
    tokenizer = train_bpe((glyphs[i].captions()[0] for i in range(40)), vocab_size=300, context=12)
    image = image_tower("conv")
    text = text_tower(
        "text:width=32:depth=1:heads=2",
        vocab_size=tokenizer.vocab_size,
        context=tokenizer.context,
        pad=tokenizer.pad,
        eot=tokenizer.eot,
    )
    return Model(DualEncoder(image, text, 16), tokenizer, image.preprocess, name="toy")


def contents(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def killed(owner: Any, point: str, call: int, moment: str, work: Callable[[], Any]) -> bool:
    """Run `work` in a process of its own, which is killed before or after one call of the function
    `point` of `owner`; return whether it was."""

    def run() -> None:
        calls, original = 0, getattr(owner, point)

        def counting(*arguments, **keywords):
            nonlocal calls
            calls += 1
            if (calls, moment) == (call, "before"):
                os.kill(os.getpid(), signal.SIGKILL)
            result = original(*arguments, **keywords)
            if (calls, moment) == (call, "after"):
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        setattr(owner, point, counting)
        work()

    process = multiprocessing.get_context("fork").Process(target=run)
    process.start()
    process.join(60)
    assert process.exitcode in {0, -signal.SIGKILL}
    return process.exitcode != 0


DIMENSION = 16


def unit(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


def near(count, seed, centres=60):
    """Vectors around shared centres, as embeddings are."""
    rng = np.random.default_rng(seed)
    middles = np.random.default_rng(0).normal(size=(centres, DIMENSION))
    return unit(
        middles[rng.integers(0, centres, count)] + 0.4 * rng.normal(size=(count, DIMENSION))
    )


def folder_of(path, vectors, texts=None, identity="sha256:model", name="k", kept=None):
    """A folder as `diptych embed` writes it, in two parts; `kept` are columns, with their kinds."""
    kept = kept or {}
    for kind, arrays in {"img_emb": vectors, "text_emb": texts}.items():
        if arrays is not None:
            (path / kind).mkdir(parents=True)
            for number, part in enumerate(np.array_split(arrays, 2)):
                np.save(path / kind / f"{kind}_{number}.npy", part)
    (path / "metadata").mkdir()
    for number, rows in enumerate(np.array_split(np.arange(len(vectors)), 2)):
        table = {
            "key": [f"{name}{row}" for row in rows],
            "position": list(rows),
            "image_path": [""] * len(rows),
            "caption": [None] * len(rows),
        }
        schema = {"key": "string", "position": "int64", "image_path": "string", "caption": "string"}
        columns = {
            column: pyarrow.array(table[column], getattr(pyarrow, kind)())
            for column, kind in schema.items()
        }
        for column, (kind, values) in kept.items():
            columns[column] = arrow(kind, [values[row] for row in rows])
        pyarrow.parquet.write_table(
            pyarrow.table(columns), path / "metadata" / f"metadata_{number}.parquet"
        )
    Manifest(
        model="m",
        identity=identity,
        dimension=vectors.shape[1],
        count=len(vectors),
        texts=None if texts is None else len(texts),
        source="s",
        damaged={},
        columns={column: kind for column, (kind, _) in kept.items()},
    ).write(path)
    return path


def recall(folder, queries, k=10):
    """The share of the `k` nearest that a folder's index finds; equal cosines are equally right."""
    found = Index.open(folder).top(queries, k)[0]
    worst = Index.open(folder, exact=True).top(queries, k)[0][:, -1:]
    return float((found >= worst - 1e-6).float().mean())
