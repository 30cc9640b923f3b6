"""A source with any requested fields: small images of one shape and colour, and words about
them."""

from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw

from diptych.data.sample import Box, Field, Sample, Schema, Text
from diptych.rng import generator

_COLOURS = ("red", "orange", "yellow", "green", "cyan", "blue", "purple", "pink")
_SHAPES = ("circle", "square", "triangle", "bar")
_PLACES = ("left", "right", "top", "bottom")


class Drawn:
    """An image that is drawn when decoded."""

    def __init__(self, colour: int, shape: int, place: int, size: int, seed: int):
        self.colour = colour
        self.shape = shape
        self.place = place
        self.size = size
        self.seed = seed

    def decode(self, at_least: int | None = None) -> Image.Image:
        ground = generator(self.seed, "ground").integers(150, 255, 3)
        image = Image.new("RGB", (self.size, self.size), tuple(int(value) for value in ground))
        draw = ImageDraw.Draw(image)
        third = self.size / 3
        dx, dy = ((0, 1), (2, 1), (1, 0), (1, 2))[self.place]
        x = dx * third
        y = dy * third
        fill = f"hsl({self.colour * 45}, 90%, 45%)"
        match _SHAPES[self.shape]:
            case "circle":
                draw.ellipse((x, y, x + third, y + third), fill=fill)
            case "square":
                draw.rectangle((x, y, x + third, y + third), fill=fill)
            case "triangle":
                draw.polygon(
                    [(x, y + third), (x + third, y + third), (x + third / 2, y)], fill=fill
                )
            case "bar":
                draw.rectangle((x, y + third / 3, x + third, y + third / 2), fill=fill)
        return image

    def read(self) -> bytes:
        return self.decode().tobytes()


class Toy:
    """`count` samples, all different, with the given fields (`images.ROLE`, `texts.ROLE`,
    `labels.NAME`, `boxes`). Of the images in `lacked`, every third sample has none.

    >>> Toy(2, ["texts.caption"])[1].captions()
    ['a orange circle on the left']
    """

    name = "toy"

    def __init__(
        self,
        count: int = 64,
        fields: Sequence[str] = ("images.main", "texts.caption"),
        size: int = 32,
        lacked: Sequence[str] = (),
    ):
        assert count <= len(_COLOURS) * len(_SHAPES) * len(_PLACES), (
            "there are only 128 different drawings"
        )
        assert all(name.startswith("images.") for name in lacked), "only images may be lacked"
        self.count = count
        self.fields = tuple(fields)
        self.size = size
        self.lacked = frozenset(lacked)

    def __len__(self) -> int:
        return self.count

    def keys(self) -> Sequence[str]:
        return [f"{index:03d}" for index in range(self.count)]

    def schema(self) -> Schema:
        kinds = {"images": "image", "texts": "text", "labels": "int", "boxes": "box"}
        return {
            name: Field(
                kind=kinds[name.split(".")[0]],
                optional=name in self.lacked,
                classes=_COLOURS if name.startswith("labels.") else (),
            )
            for name in self.fields
        }

    def __getitem__(self, index: int) -> Sample:
        colour = index % 8
        shape = index // 8 % 4
        place = index // 32 % 4
        words = f"a {_COLOURS[colour]} {_SHAPES[shape]} on the {_PLACES[place]}"
        held = (
            self.fields if index % 3 else [name for name in self.fields if name not in self.lacked]
        )
        named = [name.split(".", 1) for name in held if "." in name]
        return Sample(
            key=f"{index:03d}",
            source=self.name,
            images={
                role: Drawn(colour, shape, place, self.size, index)
                for kind, role in named
                if kind == "images"
            },
            texts=[
                Text(text=words, role="caption" if role == "*" else role)
                for kind, role in named
                if kind == "texts"
            ],
            labels={name: colour for kind, name in named if kind == "labels"},
            boxes=[Box(xyxy=(0, 0, self.size / 2, self.size), text=words)]
            if "boxes" in self.fields
            else (),
        )

    def labels(self, name: str) -> np.ndarray:
        """Return one label of every sample."""
        return np.arange(self.count) % 8
