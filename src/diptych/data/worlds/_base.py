"""The class that worlds derive from, and images, masks, boxes and arrays that are drawn when first
asked for."""

import io
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from PIL import Image

from diptych.data.sample import Box, Sample, Schema, Text
from diptych.errors import unknown

Facts = TypeVar("Facts")


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """What an image world draws: an RGB image, masks of numbers ("L") by name, arrays by name,
    boxes."""

    image: Image.Image
    masks: Mapping[str, Image.Image] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    boxes: Sequence[Box] = ()


class World(ABC, Generic[Facts]):
    """Facts from (seed, index), and images, texts and minimal edits from facts. Holds its config
    and no state.

    `Facts` is the world's own frozen dataclass of plain values. What is random in images and texts
    is drawn by `sample` too, or from a private seed that the facts hold.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ()  # of edits

    def __init__(self, config: Any):
        self.config = config

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config,)

    def spec(self) -> str:
        """The world as one word: its name and the options that are not at their defaults."""
        default = type(self.config)()
        options = {item.name: getattr(self.config, item.name) for item in fields(self.config)}
        changed = [
            f"{name}={value}" for name, value in options.items() if value != getattr(default, name)
        ]
        return ":".join([self.name, *changed])

    def key(self, seed: int, index: int) -> str:
        """What names the sample (seed, index)."""
        return f"{seed}-{index:06d}"

    @abstractmethod
    def sample(self, seed: int, index: int) -> Facts:
        """All that is the case in sample `index` of the stream `seed`."""

    def render(self, facts: Facts) -> Rendered | None:
        """What is drawn; None in a world without images."""
        return None

    @abstractmethod
    def captions(self, facts: Facts) -> list[Text]:
        """The texts, of all roles that the config asks for."""

    def edit(self, facts: Facts, kind: str) -> Facts:
        """The facts after a minimal edit of a kind in `kinds`."""
        raise unknown(f"edit of {self.name}", kind, self.kinds)

    @abstractmethod
    def example(self, facts: Facts, key: str) -> Sample:
        """The sample that these facts make."""

    @abstractmethod
    def schema(self) -> Schema:
        """The fields that a sample has."""


class Drawn:
    """What a world draws of some facts, drawn once, when first asked for, and again in another
    process.

    `image()`, `mask(name)`, `arrays(names)` and `boxes(count)` are the parts as a `Sample` takes
    them.
    """

    def __init__(self, world: World[Any], facts: Any):
        self.world = world
        self.facts = facts

    @cached_property
    def rendered(self) -> Rendered:
        """All parts."""
        rendered = self.world.render(self.facts)
        assert rendered is not None, f"{self.world.name} draws nothing"
        return rendered

    def __reduce__(self) -> tuple[Any, ...]:
        return Drawn, (self.world, self.facts)

    def image(self) -> "DrawnImage":
        """The image."""
        return DrawnImage(self)

    def mask(self, name: str) -> "DrawnImage":
        """A mask of numbers, "L"."""
        return DrawnImage(self, name)

    def arrays(self, *names: str) -> Mapping[str, np.ndarray]:
        """The arrays of these names."""
        return _Arrays(self, names)

    def boxes(self, count: int) -> Sequence[Box]:
        """The boxes, of which there are `count`."""
        return _Boxes(self, count)


@dataclass(frozen=True, slots=True)
class DrawnImage:
    """An image, or one of its masks, not yet drawn."""

    drawn: Drawn
    name: str = ""

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The image in its own size (a fresh copy, which may be changed)."""
        rendered = self.drawn.rendered
        return (rendered.masks[self.name] if self.name else rendered.image).copy()

    def read(self) -> bytes:
        """The image as a PNG file."""
        buffer = io.BytesIO()
        self.decode().save(buffer, "PNG", compress_level=1)
        return buffer.getvalue()


@dataclass(frozen=True, slots=True)
class _Arrays(Mapping[str, np.ndarray]):
    drawn: Drawn
    names: tuple[str, ...]

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self.names:
            raise KeyError(name)
        return self.drawn.rendered.arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.names)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True)
class _Boxes(Sequence[Box]):
    drawn: Drawn
    count: int

    def __getitem__(self, index: Any) -> Any:
        return self.drawn.rendered.boxes[index]

    def __len__(self) -> int:
        return self.count
