"""The base class of worlds, and lazily drawn images, masks, boxes and arrays."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from typing import Any, ClassVar, Generic, TypeVar

import numpy as np
from PIL import Image

from diptych.data.png import png_of
from diptych.data.sample import Box, Sample, Schema, Text
from diptych.errors import unknown

Facts = TypeVar("Facts")


@dataclass(frozen=True, kw_only=True)
class Rendered:
    """The drawing of an image world: an RGB image, masks of numbers ("L") and arrays by name,
    boxes."""

    image: Image.Image
    masks: Mapping[str, Image.Image] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    boxes: Sequence[Box] = ()


class World(ABC, Generic[Facts]):
    """The base class of worlds: facts from (seed, index), and images, texts and minimal edits from
    facts.

    A world holds its config and no state. `Facts` is the world's frozen dataclass of plain values.
    All randomness of images and texts is drawn by `sample`, or from a private seed in the facts.
    """

    name: ClassVar[str]
    kinds: ClassVar[tuple[str, ...]] = ()  # of edits

    def __init__(self, config: Any):
        self.config = config

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.config,)

    def spec(self) -> str:
        """The world as a spec: its name and the options that differ from their defaults."""
        default = type(self.config)()
        options = {item.name: getattr(self.config, item.name) for item in fields(self.config)}
        changed = [
            f"{name}={value}" for name, value in options.items() if value != getattr(default, name)
        ]
        return ":".join([self.name, *changed])

    def key(self, seed: int, index: int) -> str:
        """The unique key of the sample (seed, index)."""
        return f"{seed}-{index:06d}"

    @abstractmethod
    def sample(self, seed: int, index: int) -> Facts:
        """The facts of sample `index` of the stream `seed`."""

    def render(self, facts: Facts) -> Rendered | None:
        """Draw the facts; None in a world without images."""
        return None

    @abstractmethod
    def captions(self, facts: Facts) -> list[Text]:
        """The texts of all roles in the config."""

    def edit(self, facts: Facts, kind: str) -> Facts:
        """The facts after a minimal edit of a kind in `kinds`."""
        raise unknown(f"edit of {self.name}", kind, self.kinds)

    @abstractmethod
    def example(self, facts: Facts, key: str) -> Sample:
        """The sample of some facts."""

    @abstractmethod
    def schema(self) -> Schema:
        """The fields of samples."""


class Drawn:
    """The drawing of some facts, made once on first access, and again in each other process.

    `image()`, `mask(name)`, `arrays(names)` and `boxes(count)` return the parts for a `Sample`.
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
    """An image, or one of its masks, drawn on access."""

    drawn: Drawn
    name: str = ""

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The image in full size, as a copy that may be modified."""
        rendered = self.drawn.rendered
        return (rendered.masks[self.name] if self.name else rendered.image).copy()

    def read(self) -> bytes:
        """The image as a PNG file."""
        return png_of(self.decode())


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
