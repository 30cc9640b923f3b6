"""A source with any requested fields: small images of one shape and colour, and words about
them."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

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
        self.draw(image, f"hsl({self.colour * 45}, 90%, 45%)")
        return image

    def draw(self, image: Image.Image, fill: str | int) -> None:
        """Draw the shape alone."""
        draw = ImageDraw.Draw(image)
        x, y, *_ = _third(self.place, self.size)
        third = self.size / 3
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

    def read(self) -> bytes:
        return self.decode().tobytes()

    def volume(self) -> np.ndarray:
        """The drawing as a volume in Hounsfield units, half as deep as it is high: slices of its
        red, green and blue parts."""
        planes = np.asarray(self.decode(), np.float32).transpose(2, 0, 1)
        slices = np.arange(self.size // 2) * 3 // (self.size // 2)
        return planes[slices] * np.float32(500 / 255) - 200


class Region:
    """The mask of a drawing: 1 in the third of the image that holds it, else 0."""

    def __init__(self, place: int, size: int):
        self.place = place
        self.size = size

    def decode(self, at_least: int | None = None) -> Image.Image:
        mask = np.zeros((self.size, self.size), np.uint8)
        x0, y0, x1, y1 = (round(edge) for edge in _third(self.place, self.size))
        mask[y0:y1, x0:x1] = 1
        return Image.fromarray(mask)

    def read(self) -> bytes:
        return self.decode().tobytes()


class Outline:
    """The mask of the shape of a drawing: 1 in it, else 0."""

    def __init__(self, drawn: Drawn):
        self.drawn = drawn

    def decode(self, at_least: int | None = None) -> Image.Image:
        mask = Image.new("L", (self.drawn.size, self.drawn.size))
        self.drawn.draw(mask, 1)
        return mask

    def read(self) -> bytes:
        return self.decode().tobytes()


class Toy:
    """`count` samples, all different, with the given fields (`images.ROLE`, `texts.ROLE`,
    `labels.NAME`, `boxes`, `boxes.mask`, `masks.NAME`, `arrays.NAME`, `edits`). Of the images in
    `lacked`, every third sample has none. Of the fields in `several` a sample has two different texts.

    Labels are the number of the colour, those in `floats` the share of the index. There are three
    boxes: the drawing's, that of its half, and one without a text; all have the drawing's mask.
    Arrays have the shapes `shapes`, by default 16 numbers. The edits are the drawing in another
    colour ("recolour"), in another shape ("replace") and at another place ("move"); they answer the
    question of a toy that has some.

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
        floats: Sequence[str] = (),
        shapes: Mapping[str, tuple[int, ...]] | None = None,
        several: Sequence[str] = (),
    ):
        assert count <= len(_COLOURS) * len(_SHAPES) * len(_PLACES), (
            "there are only 128 different drawings"
        )
        assert all(name.startswith("images.") for name in lacked), "only images may be lacked"
        self.count = count
        self.fields = tuple(fields)
        self.size = size
        self.lacked = frozenset(lacked)
        self.floats = frozenset(floats)
        self.shapes = dict(shapes or {})
        self.several = tuple(several)

    def of_all(self) -> "Toy":
        """The toy of all drawings with the same fields."""
        count = len(_COLOURS) * len(_SHAPES) * len(_PLACES)
        lacked = tuple(self.lacked)
        floats = tuple(self.floats)
        return Toy(count, self.fields, self.size, lacked, floats, self.shapes, self.several)

    def __len__(self) -> int:
        return self.count

    def keys(self) -> Sequence[str]:
        return [f"{index:03d}" for index in range(self.count)]

    def schema(self) -> Schema:
        return {name: self._field(name) for name in self.fields}

    def _field(self, name: str) -> Field:
        group, _, own = name.partition(".")
        if name == "boxes.mask":
            return Field(kind="mask")
        kind = {"images": "image", "texts": "text", "labels": "int", "boxes": "box"}.get(group)
        kind = kind or {"masks": "mask", "arrays": "array", "edits": "edit"}[group]
        if group == "labels" and own in self.floats:
            return Field(kind="float")
        classes = {"labels": _COLOURS, "masks": ("ground", "drawing")}.get(group, ())
        return Field(kind=kind, optional=name in self.lacked, classes=classes)

    def __getitem__(self, index: int) -> Sample:
        held = (
            self.fields if index % 3 else [name for name in self.fields if name not in self.lacked]
        )
        sample = self._drawn(index, index % 8, index // 8 % 4, index // 32 % 4, held)
        if "edits" not in held:
            return sample
        return replace(sample, edits=tuple(self._edits(index)))

    def _edits(self, index: int) -> Iterator[Sample]:
        colour = index % 8
        shape = index // 8 % 4
        place = index // 32 % 4
        held = ("images.main", "texts.caption", *({"texts.answer"} & {*self.fields}))
        asked = [*({"texts.question"} & {*self.fields})]
        question = self._drawn(index, colour, shape, place, asked).texts
        for kind, drawing in (
            ("recolour", ((colour + 3) % 8, shape, place)),
            ("replace", (colour, (shape + 1) % 4, place)),
            ("move", (colour, shape, (place + 1) % 4)),
        ):
            edit = self._drawn(index, *drawing, held)
            yield replace(edit, texts=(*question, *edit.texts), kind=kind)

    def _drawn(
        self, index: int, colour: int, shape: int, place: int, held: Sequence[str]
    ) -> Sample:
        """A drawing with the fields that it holds."""
        words = _words(colour, shape, place)
        second = _words((colour + 1) % 8, shape, place)
        named = [name.split(".", 1) for name in held if "." in name]
        outline = Outline(Drawn(colour, shape, place, self.size, index))
        mask = outline if "boxes.mask" in held else None
        return Sample(
            key=f"{index:03d}",
            source=self.name,
            images={
                role: Drawn(colour, shape, place, self.size, index)
                for kind, role in named
                if kind == "images"
            },
            texts=[
                Text(text=text, role="caption" if role == "*" else role)
                for kind, role in named
                if kind == "texts"
                for text in ((words, second) if f"texts.{role}" in self.several else (words,))
            ],
            labels={
                name: index / self.count if name in self.floats else colour
                for kind, name in named
                if kind == "labels"
            },
            boxes=self._boxes(words, place, mask) if "boxes" in held else (),
            masks={name: Region(place, self.size) for kind, name in named if kind == "masks"},
            arrays={name: self._array(index, name) for kind, name in named if kind == "arrays"},
        )

    def _array(self, index: int, name: str) -> np.ndarray:
        values = generator(index, "array", name).standard_normal(self.shapes.get(name, (16,)))
        return values.astype(np.float32)

    def _boxes(self, words: str, place: int, mask: Outline | None) -> list[Box]:
        half = ((0, 0, 0.5, 1), (0.5, 0, 1, 1), (0, 0, 1, 0.5), (0, 0.5, 1, 1))[place]
        return [
            Box(xyxy=_third(place, self.size), text=words, mask=mask),
            Box(
                xyxy=tuple(edge * self.size for edge in half),  # type: ignore[arg-type]
                text=f"the {_PLACES[place]}",
                mask=mask,
            ),
            Box(xyxy=(0, 0, self.size, self.size), mask=mask),
        ]

    def labels(self, name: str) -> np.ndarray:
        """Return one label of every sample."""
        if name in self.floats:
            return np.arange(self.count) / self.count
        return np.arange(self.count) % 8


def _words(colour: int, shape: int, place: int) -> str:
    """The caption of a drawing."""
    return f"a {_COLOURS[colour]} {_SHAPES[shape]} on the {_PLACES[place]}"


def _third(place: int, size: int) -> tuple[float, float, float, float]:
    """The box of a drawing at a place."""
    third = size / 3
    dx, dy = ((0, 1), (2, 1), (1, 0), (1, 2))[place]
    return dx * third, dy * third, (dx + 1) * third, (dy + 1) * third
