"""Views: how one sample becomes the named values of a batch. Crops, caption choice, corruption and the like are views.

A view is a callable with `reads` (fields of the sample) and `gives` (fields of the batch). All its random choices come
from the generator that it is handed, which is a function of (seed, epoch, position, view): never of worker, rank or
batch size. `Collate` stacks what the views gave.

Dimensions: B samples, V views, C captions, L text length, H x W pixels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.data.batch import Batch, Images, Tokens
from diptych.data.pictures import Preprocess
from diptych.data.sample import BadSample, Sample
from diptych.data.tokenizers import Tokenizer, pad_batch
from diptych.rng import generator


class View(Protocol):
    """`view(sample, rng, train)` gives {"images.NAME": uint8 (V, 3, H, W)}, {"texts.NAME": C lists of ids} or
    {"fields.NAME": a number or tensor}."""

    @property
    def reads(self) -> tuple[str, ...]: ...

    @property
    def gives(self) -> tuple[str, ...]: ...

    def __call__(self, sample: Sample, rng: np.random.Generator, train: bool) -> dict[str, Any]: ...


@dataclass(frozen=True, kw_only=True)
class Augment:
    """How a training picture is varied, all at once and before it is resized.

    `crop` is the share of the picture's area that a random crop keeps, `ratio` the crop's aspect (log-uniform); `flip`
    mirrors half of the pictures. A picture with transparency is not cropped but placed: shrunk by 1/s, s uniform in
    [1, `place`], wholly inside at a uniform place, turned by up to `turn` degrees, on a ground of one random colour.
    """

    crop: tuple[float, float] = (0.9, 1.0)
    ratio: tuple[float, float] = (0.75, 4 / 3)
    flip: bool = False
    place: float = 1.8
    turn: float = 0.0


def place(
    tile: Image.Image, size: int, shrink: float, at: tuple[float, float], ground: tuple[int, int, int]
) -> Image.Image:
    """Paste an RGBA tile, shrunk by 1/`shrink`, wholly inside a `size` x `size` canvas of one colour.

    `at` says where: (0, 0) top left, (1, 1) bottom right.

    >>> place(Image.new("RGBA", (8, 8), (255, 0, 0, 255)), 16, 2.0, (1.0, 1.0), (0, 0, 0)).getpixel((15, 15))
    (255, 0, 0)
    """
    side = max(1, round(size / shrink))
    height, width = round(side * tile.height / max(tile.size)), round(side * tile.width / max(tile.size))
    small = tile.resize((max(width, 1), max(height, 1)), Image.Resampling.BILINEAR, reducing_gap=2.0)
    canvas = Image.new("RGB", (size, size), ground)
    corner = (round(at[0] * (size - small.width)), round(at[1] * (size - small.height)))
    canvas.paste(small, corner, small.getchannel("A"))
    return canvas


@dataclass(frozen=True, kw_only=True)
class PictureView:
    """One picture of a role, augmented in training, as `count` views (B, V, 3, H, W)."""

    preprocess: Preprocess
    name: str = "main"
    role: str = "main"
    augment: Augment = Augment()
    count: int = 1

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"images.{self.role}",)

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"images.{self.name}",)

    def __call__(self, sample: Sample, rng: np.random.Generator, train: bool) -> dict[str, Any]:
        picture = sample.images.get(self.role)
        if picture is None:
            raise BadSample("no-picture", f"no picture of role {self.role!r}")
        image = picture.decode()
        views = [self._vary(image, rng) if train else self.preprocess(image) for _ in range(self.count)]
        return {f"images.{self.name}": torch.stack(views)}

    def _vary(self, image: Image.Image, rng: np.random.Generator) -> Tensor:
        size, augment = self.preprocess.size, self.augment
        if image.mode == "RGBA":
            shrink, x, y = rng.uniform(1.0, augment.place), rng.uniform(), rng.uniform()
            ground = tuple(int(value) for value in rng.integers(0, 256, 3))
            if augment.turn:
                image = image.rotate(rng.uniform(-augment.turn, augment.turn), Image.Resampling.BILINEAR)
            image = place(image, size, shrink, (x, y), ground)  # type: ignore[arg-type]
        else:
            box = _crop_box(image.size, augment, rng)
            image = image.resize((size, size), Image.Resampling.BICUBIC, box=box, reducing_gap=3.0)
        if augment.flip and rng.uniform() < 0.5:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _crop_box(size: tuple[int, int], augment: Augment, rng: np.random.Generator) -> tuple[float, float, float, float]:
    """A crop of random area and aspect, cut to the picture where it would not fit."""
    width, height = size
    area = width * height * rng.uniform(*augment.crop)
    aspect = np.exp(rng.uniform(np.log(augment.ratio[0]), np.log(augment.ratio[1])))
    w, h = min(width, np.sqrt(area * aspect)), min(height, np.sqrt(area / aspect))
    x, y = rng.uniform(0, width - w), rng.uniform(0, height - h)
    return float(x), float(y), float(x + w), float(y + h)


@dataclass(frozen=True, kw_only=True)
class TextView:
    """Texts of a role as token ids (B, C, L): in training `count` of them drawn at random, else the first.

    Raises BadSample("no-caption") where a sample has none.
    """

    tokenizer: Tokenizer
    name: str = "main"
    role: str = "caption"
    count: int = 1

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"texts.{self.role}",)

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"texts.{self.name}",)

    def __call__(self, sample: Sample, rng: np.random.Generator, train: bool) -> dict[str, Any]:
        texts = [text for text in sample.captions(self.role) if text.strip()]
        if not texts:
            raise BadSample("no-caption", f"no text of role {self.role!r}")
        if train:
            chosen = rng.permutation(len(texts))[: self.count]
            texts = [texts[i] for i in np.resize(chosen, self.count)]
        else:
            texts = [texts[i % len(texts)] for i in range(self.count)]
        return {f"texts.{self.name}": self.tokenizer.encode(texts)}


@dataclass(frozen=True, kw_only=True)
class LabelView:
    """A label as a number a sample."""

    label: str
    name: str = ""

    @property
    def reads(self) -> tuple[str, ...]:
        return (f"labels.{self.label}",)

    @property
    def gives(self) -> tuple[str, ...]:
        return (f"fields.{self.name or self.label}",)

    def __call__(self, sample: Sample, rng: np.random.Generator, train: bool) -> dict[str, Any]:
        return {self.gives[0]: sample.labels[self.label]}


def look(sample: Sample, views: Sequence[View], at: tuple[int, ...], train: bool) -> dict[str, Any]:
    """All views of one sample; view number v draws from `generator(*at, v)`, at = (seed, epoch, position)."""
    values: dict[str, Any] = {}
    for number, view in enumerate(views):
        values |= view(sample, generator(*at, number), train)
    return values


def collate(keys: Sequence[str], rows: Sequence[dict[str, Any]], tokenizers: dict[str, Tokenizer]) -> Batch:
    """Stack what the views gave for each sample. `tokenizers` names the padding rule of each text."""
    images: dict[str, Images] = {}
    texts: dict[str, Tokens] = {}
    fields: dict[str, Tensor] = {}
    for full in rows[0]:
        kind, name = full.split(".", 1)
        values = [row[full] for row in rows]
        if kind == "images":
            images[name] = Images(torch.stack(values))
        elif kind == "texts":
            ids, lengths = pad_batch([ids for captions in values for ids in captions], tokenizers[name])
            texts[name] = Tokens(ids.unflatten(0, (len(rows), -1)), lengths.unflatten(0, (len(rows), -1)))
        else:
            fields[name] = torch.stack([torch.as_tensor(value) for value in values])
    return Batch(images=images, texts=texts, fields=fields, keys=tuple(keys))
