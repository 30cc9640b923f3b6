"""Images of one source pasted on those of another: `overlay:GROUND:pasted=SPEC`.

    y = (x + a p) / 2         blend=add: x the image, p the pasted one with its alpha a; (x) / 2 where none is
    y = (1 - a) x + a p       blend=over

Both are specs without options of their own; a card names a source with options, and its split `train` is
read. Labels of pasted images are added, missing (-1 or NaN) where nothing is pasted: this is the data of
contrastive analysis, whose target samples have a factor that background lacks. What is pasted, where and how
large depends on the seed and the position of a sample alone. Masks, boxes and texts stay those of the ground.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
from PIL import Image

from diptych.data.png import png_of
from diptych.data.sample import BadSample, EncodedImage, Field, Sample, Schema, Source, labels_of
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.rng import generator
from diptych.spec import Share, Spec, configure

FORMAT = "overlay"
PREFIX = "overlay:"
_MAIN = "images.main"


def claims(spec: Spec) -> bool:
    """Whether this module reads `spec`: by the prefix."""
    return spec.name.startswith(PREFIX)


@dataclass(frozen=True, kw_only=True)
class OverlayOptions:
    """`pasted` is the source of what is pasted, on a `share` of the samples.

    Its longer side is `scale` of the shorter side of the ground, or is drawn from `min_scale` to it; it lies
    `anywhere`, or in the `middle`. `prefix` is put before the names of its labels.
    """

    pasted: str
    share: Share = 0.5
    scale: Share = 0.5
    min_scale: Share | None = None
    place: Literal["anywhere", "middle"] = "anywhere"
    blend: Literal["add", "over"] = "add"
    prefix: str = ""
    seed: int = 0


def open(spec: Spec) -> "Overlaid":
    """Open `overlay:GROUND:pasted=SPEC`, with `OverlayOptions`."""
    from diptych.data.sources import open_source  # which scans this folder

    options = asdict(configure(OverlayOptions, spec.options, f"source {spec.name!r}"))
    ground = open_source(spec.name.removeprefix(PREFIX))
    return Overlaid(ground, open_source(options.pop("pasted")), name=str(spec), **options)


class Overlaid(Wrapped):
    """The samples of `ground`, on a share of which an image of `pasted` lies; arguments are those of
    `OverlayOptions`.

    Raises InputError for a source without images.main, labels of the same name, and a `min_scale` above
    `scale`.

    >>> from diptych.data.sources import open_source
    >>> shapes, glyphs = open_source("scenes:count=4:size=32"), open_source("glyphs")
    >>> source = Overlaid(shapes, glyphs, share=1.0, prefix="glyph_")
    >>> len(source), bool((source.labels("glyph_concept") >= 0).all())
    (4, True)
    """

    def __init__(
        self,
        ground: Source,
        pasted: Source,
        *,
        share: float = 0.5,
        scale: float = 0.5,
        min_scale: float | None = None,
        place: str = "anywhere",
        blend: str = "add",
        prefix: str = "",
        seed: int = 0,
        name: str | None = None,
    ):
        super().__init__(ground, name=name)
        for source in (ground, pasted):
            if _MAIN not in source.schema():
                raise InputError(
                    f"{source.name} has no {_MAIN} to overlay; give a source of images"
                )
        least = scale if min_scale is None else min_scale
        if least > scale:
            raise InputError(f"min_scale={least} is above scale={scale}; give a smaller one")
        self.pasted = pasted
        self.optional = share < 1
        self.blend = blend
        self.prefix = prefix
        self.own = {
            prefix + field.removeprefix("labels."): field.removeprefix("labels.")
            for field in pasted.schema()
            if field.startswith("labels.")
        }
        known = ground.schema()
        if both := [label for label in self.own if f"labels.{label}" in known]:
            raise InputError(
                f"{ground.name} and {pasted.name} both have labels.{both[0]}; add prefix=pasted_"
            )
        rng = generator(seed, "overlay")
        count = len(ground)
        laid = rng.random(count) < share
        self.chosen = np.where(laid, rng.integers(len(pasted), size=count), -1)
        self.scales = rng.uniform(least, scale, count)
        places = rng.random((count, 2))
        self.places = places if place == "anywhere" else np.full_like(places, 0.5)

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        sample = super().__getitem__(index)
        chosen = int(self.chosen[index])
        on = None if chosen < 0 else self.pasted[chosen]
        image = OverlaidImage(
            _main(sample),
            None if on is None else _main(on),
            float(self.scales[index]),
            (float(self.places[index, 0]), float(self.places[index, 1])),
            self.blend == "add",
        )
        labels = {
            name: self._missing(name) if on is None else on.labels.get(own, self._missing(name))
            for name, own in self.own.items()
        }
        return replace(
            sample, images={**sample.images, "main": image}, labels={**sample.labels, **labels}
        )

    def _missing(self, name: str) -> int | float:
        return math.nan if self.pasted.schema()[f"labels.{self.own[name]}"].kind == "float" else -1

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (N,), of the ground or of what is pasted, without decoding images."""
        if name not in self.own:
            return super().labels(name)
        found = labels_of(self.pasted, self.own[name])[self.chosen]
        return np.where(self.chosen < 0, self._missing(name), found)

    @property
    def damage(self) -> Mapping[str, str]:
        """The samples that either source lost when it was indexed: place -> reason."""
        return {**getattr(self.pasted, "damage", {}), **super().damage}

    def schema(self) -> Schema:
        """The fields of the ground, and the labels of what is pasted."""
        theirs = self.pasted.schema()
        own: dict[str, Field] = {}
        for name, label in self.own.items():
            field = theirs[f"labels.{label}"]
            own[f"labels.{name}"] = replace(field, optional=field.optional or self.optional)
        return {**super().schema(), **own}


def _main(sample: Sample) -> EncodedImage:
    if "main" not in sample.images:
        raise BadSample("no-image", f"{sample.source}: {sample.key} has no main image")
    return sample.images["main"]


@dataclass(frozen=True, slots=True)
class OverlaidImage:
    """An image with another one (None: none) on it, whose longer side is `scale` of the shorter one of the
    image, at (x, y), shares of the room beside it; added by halves, or laid over."""

    image: EncodedImage
    pasted: EncodedImage | None
    scale: float
    at: tuple[float, float]
    add: bool

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The image as RGB, in its own size; raises BadSample if either cannot be read."""
        pixels: Any = np.array(self.image.decode(at_least).convert("RGB"), np.float32)
        if self.add:
            pixels /= 2
        if self.pasted is not None:
            colours, alpha = self._fitted(self.pasted, min(pixels.shape[:2]))
            top, left = (
                round(share * (room - own))
                for share, room, own in zip(self.at[::-1], pixels.shape, alpha.shape, strict=False)
            )
            under = pixels[top : top + alpha.shape[0], left : left + alpha.shape[1]]
            if self.add:
                under += colours / 2
            else:
                under *= 1 - alpha
                under += colours
        return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))

    def _fitted(self, pasted: EncodedImage, side: int) -> tuple[np.ndarray, np.ndarray]:
        """Colours times alpha (H, W, 3), 0 to 255, and alpha (H, W, 1), 0 to 1."""
        longer = max(1, round(self.scale * side))
        image = pasted.decode(longer).convert("RGBA").convert("RGBa")  # colours times alpha
        ratio = longer / max(image.size)
        size = (max(1, round(image.width * ratio)), max(1, round(image.height * ratio)))
        if size != image.size:
            image = image.resize(size, Image.Resampling.BICUBIC)
        found = np.asarray(image, np.float32)
        return found[..., :3], found[..., 3:] / 255

    def read(self) -> bytes:
        """The image as a PNG file."""
        return png_of(self.decode())
