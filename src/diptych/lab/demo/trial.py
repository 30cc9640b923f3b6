"""The demo's tests: the training drawings, the held-out ones, and the measurements on them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image

from diptych.data.images import on_ground
from diptych.data.sample import EncodedImage, Sample, Schema
from diptych.data.sources import open_source
from diptych.data.sources.glyphs import Glyphs
from diptych.data.views import place
from diptych.data.wrap import Wrapped
from diptych.evaluation.suites.retrieval import retrieval
from diptych.metrics import accuracy
from diptych.models.model import Model
from diptych.rng import generator

CANVAS = 64
MOST_SHRINK = 1.8
LOOKUP = 16  # pixels a side
TARGETS = {"placed": 0.35, "plain": 0.38, "concepts": 0.35}  # t2i_r5, fixed before the recipe


@dataclass(frozen=True, kw_only=True)
class Trial:
    """The designs and concepts to train on, and those held out for the tests."""

    designs: tuple[str, ...]
    held_out: str
    learnt: str  # splits of concepts
    unseen: str

    def source(self, split: str, *designs: str) -> Glyphs:
        """Return the drawings of some designs."""
        source = open_source(self.spec(split, *designs))
        assert isinstance(source, Glyphs)
        return source

    def spec(self, split: str, *designs: str) -> str:
        """Return the same source as a spec of the command line."""
        return f"glyphs:split={split}:design={'+'.join(designs)}"


FINAL = Trial(
    designs=("noto", "fluent-flat", "emojione"),
    held_out="twemoji",
    learnt="train+val",
    unseen="test",
)
CHOICE = Trial(designs=("noto", "fluent-flat"), held_out="emojione", learnt="train", unseen="val")


def measure(model: Model, trial: Trial, seed: int) -> dict[str, Any]:
    """Return the results of the three tests, as stored in metrics.json."""
    drawings = trial.source(trial.learnt, *trial.designs)
    plain = trial.source(trial.learnt, trial.held_out)
    placed = Placed(plain, seed)
    return {
        "unseen_design": {
            name: {**recalls(model, gallery), "pixel_lookup_r5": pixel_lookup(gallery, drawings)}
            for name, gallery in (("plain", plain), ("placed", placed))
        },
        "unseen_concepts": recalls(model, trial.source(trial.unseen, trial.designs[0])),
    }


def recalls(model: Model, source: Any) -> dict[str, Any]:
    """Return n, and recall at 1 and 5 from names to images (t2i) and from images to names (i2t)."""
    result = retrieval(model, source, ks=(1, 5))
    return {name: result[name] for name in ("n", "t2i_r1", "t2i_r5", "i2t_r1", "i2t_r5")}


@dataclass(frozen=True)
class PlacedImage:
    """A drawing shrunk by 1/`shrink` and placed `at` a position on a canvas of one colour."""

    image: EncodedImage
    shrink: float
    at: tuple[float, float]
    ground: tuple[int, int, int]

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The canvas, RGB."""
        return place(self.image.decode(), CANVAS, self.shrink, self.at, self.ground)

    def read(self) -> bytes:
        """Return the bytes of the drawing; the canvas is not a file."""
        return self.image.read()


class Placed(Wrapped):
    """The drawings of a source, each at a position and on a background that depend on the seed and
    its key only."""

    def __init__(self, source: Glyphs, seed: int):
        super().__init__(source, name="placed")
        self.seed = seed

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        rng = generator(self.seed, "placed", sample.key)
        shrink = rng.uniform(1.0, MOST_SHRINK)
        x = rng.uniform()
        y = rng.uniform()
        red, green, blue = rng.integers(0, 256, 3).tolist()
        image = PlacedImage(sample.images["main"], shrink, (x, y), (red, green, blue))
        return Sample(
            key=sample.key,
            source=self.name,
            images={"main": image},
            texts=sample.texts,
            labels=sample.labels,
        )

    def schema(self) -> Schema:
        """Return the schema of the source without the masks, which would have to move with the
        drawing."""
        return {
            name: field for name, field in super().schema().items() if not name.startswith("masks.")
        }


def pixel_lookup(gallery: Glyphs | Placed, drawings: Glyphs, k: int = 5) -> float:
    """Return recall at `k` from names to images without learning.

    The distance of an image from a name is the distance to the nearest training drawing of that
    name, on white, in 16 x 16 RGB pixels (Euclidean).
    """
    distance = torch.cdist(small_pixels(gallery), small_pixels(drawings))  # (images, drawings)
    names = gallery.labels("concept")
    owner = drawings.labels("concept")
    columns = [distance[:, torch.from_numpy(owner == name)].amin(1) for name in names]
    return accuracy(-torch.stack(columns), np.arange(len(names)), topk=(k,))[k]


def small_pixels(source: Glyphs | Placed) -> torch.Tensor:
    """Return every image on white as 16 x 16 means: (N, 768), in [0, 1]."""
    images = (on_ground(source[i].images["main"].decode()) for i in range(len(source)))
    small = [np.asarray(image.resize((LOOKUP, LOOKUP), Image.Resampling.BOX)) for image in images]
    return torch.from_numpy(np.stack(small)).flatten(1).float() / 255
