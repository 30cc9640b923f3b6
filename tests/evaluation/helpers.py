"""Sources small enough to see through, and a model of which every answer is known."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from diptych.data.images import Preprocess
from diptych.data.sample import BadSample, Field, Sample, Text
from diptych.towers.encoded import Encoded

WIDTH = 6


@dataclass(frozen=True)
class Dot:
    """A one-pixel image that holds a number, or is damaged."""

    number: int
    damage: str = ""

    def decode(self, at_least: int | None = None) -> Image.Image:
        if self.damage:
            raise BadSample(self.damage)
        return Image.new("RGB", (1, 1), (self.number, 0, 0))

    def read(self) -> bytes:
        return bytes([self.number])


@dataclass(frozen=True)
class Plane:
    """An image, or a mask, from an array (H, W) or (H, W, 3) of bytes."""

    pixels: np.ndarray

    def decode(self, at_least: int | None = None) -> Image.Image:
        return Image.fromarray(self.pixels)

    def read(self) -> bytes:
        return self.pixels.tobytes()


class Fake:
    """Embeds a dot as the vector of its number, a text as that of its digits (none: of zero).

    `match` is the dot product of another table's vectors, `written` what `generate` answers by
    (number, prompt). `represent` gives the colour of each cell of a 2 x 2 grid, and their mean.
    """

    identity = "fake"

    def __init__(self, vectors: np.ndarray, size: int = 1):
        self.vectors = torch.nn.functional.normalize(torch.from_numpy(vectors).float(), dim=1)
        self.matcher = self.vectors
        self.written: Callable[[int, str | None], str] = lambda number, prompt: f"{prompt} {number}"
        self.seen: list[str] = []
        self.largest = 0
        self.preprocess = Preprocess(size=size)

    def numbers(self, images: Tensor) -> Tensor:
        self.largest = max(self.largest, len(images))
        return images[:, 0, 0, 0].long()

    def embed_images(self, images: Tensor, *, batch_size: int) -> Tensor:
        return self.vectors[self.numbers(images)]

    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        self.seen += texts
        return self.vectors[[digits(text) for text in texts]]

    def match(self, images: Tensor, texts: Sequence[str], *, batch_size: int) -> Tensor:
        return (
            self.matcher[self.numbers(images)] * self.matcher[[digits(text) for text in texts]]
        ).sum(1)

    def generate(
        self, images: Tensor, prompts: Sequence[str] | None = None, *, batch_size: int
    ) -> list[str]:
        asked = [None] * len(images) if prompts is None else prompts
        return [
            self.written(int(number), prompt)
            for number, prompt in zip(self.numbers(images), asked, strict=True)
        ]

    def log_prob(
        self,
        images: Tensor,
        texts: Sequence[str],
        prompts: Sequence[str] | None = None,
        *,
        batch_size: int,
    ) -> Tensor:
        before = [""] * len(texts) if prompts is None else prompts
        asked = [f"{prompt} {text}" for prompt, text in zip(before, texts, strict=True)]
        return 10 * self.match(images, asked, batch_size=batch_size) - 50

    def represent(self, images: Tensor, *, batch_size: int) -> Encoded:
        self.largest = max(self.largest, len(images))
        cells = (
            torch.nn.functional.adaptive_avg_pool2d(images.float(), 2).flatten(2).mT / 255
        )  # (N, 4, 3)
        tokens = torch.cat([cells.mean(1, keepdim=True), cells], 1)
        return Encoded(tokens=tokens, pooled=tokens[:, 0], prefix=1, grid=(2, 2))


def digits(text: str) -> int:
    return int("".join(filter(str.isdigit, text)) or 0)


class Rows:
    """A source from a list of samples."""

    name = "rows"

    def __init__(
        self,
        samples: Sequence[Sample],
        classes: Sequence[str] = ("c0", "c1", "c2"),
        fields: Mapping[str, Field] | None = None,
    ):
        self.samples, self.classes, self.fields = list(samples), tuple(classes), dict(fields or {})

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> Sample:
        return self.samples[index]

    def keys(self) -> list[str]:
        return [sample.key for sample in self.samples]

    def schema(self) -> dict[str, Field]:
        return {
            "images.main": Field(kind="image"),
            "texts.caption": Field(kind="text"),
            "labels.class": Field(kind="int", classes=self.classes),
            **self.fields,
        }


@dataclass
class Words(Rows):
    """A source of texts alone: rows of {role: text or texts}, and numbers as labels."""

    rows: Sequence[Mapping[str, str | Sequence[str] | float]]
    name: str = "words"
    samples: list[Sample] = field(init=False)

    def __post_init__(self):
        self.samples = [
            Sample(
                key=str(at),
                source=self.name,
                texts=[
                    Text(text=text, role=role)
                    for role, value in each.items()
                    if not isinstance(value, int | float)
                    for text in ([value] if isinstance(value, str) else value)
                ],
                labels={
                    name: value for name, value in each.items() if isinstance(value, int | float)
                },
            )
            for at, each in enumerate(self.rows)
        ]

    def schema(self) -> dict[str, Field]:
        fields: dict[str, Field] = {}
        for sample in self.samples:
            fields |= {f"texts.{text.role}": Field(kind="text") for text in sample.texts}
            for name, value in sample.labels.items():
                fields[f"labels.{name}"] = Field(
                    kind="float" if isinstance(value, float) else "int"
                )
        return fields


def row(key: str, number: int, *captions: str, label: int = -1, damage: str = "") -> Sample:
    return Sample(
        key=key,
        source="rows",
        images={"main": Dot(number, damage)},
        texts=[Text(text=caption) for caption in captions],
        labels={"class": label},
    )


def vectors(seed: int, count: int = 20) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, WIDTH))
