"""Regions as the rows of a folder of embeddings: the boxes of images, each with its vector.

The boxes are those of the source's samples, or those of a file (`inference.regions`), such as
`diptych detect --json` prints. A row's columns `SIDES` are its box, and its caption is the name or the
text of what is in the box.

Dimensions: N images, R regions, E embedding.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from diptych.data.boxes import inside, thing_of
from diptych.data.images import Preprocess, file_of, size_of
from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import main_image
from diptych.inference.regions import Given, not_held, outside, read_boxes
from diptych.methods.abilities import require
from diptych.models.regions import squashed

MOST = 2_000
"""The largest number of regions of one image: their vectors are in memory at once, and the number of
digits in the names of part files is that of as many rows."""

BAD_BOX = "box"
"""The reason of a sample that is left out for a box outside its image or without area."""


def most_rows(settings: Mapping[str, Any], samples: int) -> int:
    """Return how many rows some samples may give, by the settings of a job or a part."""
    return samples * (MOST if "regions" in settings else 1)


@dataclass(frozen=True, kw_only=True, slots=True)
class Regions:
    """Which regions of images are embedded: those of the source's boxes, or of a file of `boxes`; and the
    `size`, in pixels a side, at which images are read, by default the model's."""

    boxes: str | Path | None = None
    size: int | None = None


def chosen_regions(
    regions: bool, boxes: str | Path | None = None, size: int | None = None
) -> Regions | None:
    """Return what the options say, None for whole images. Raises InputError for `boxes` or `size`
    without `regions`."""
    if regions:
        return Regions(boxes=boxes, size=size)
    for name, value in (("boxes", boxes), ("size", size)):
        if value is not None:
            raise InputError(f"--{name} is about regions; embed them with --regions (regions=True)")
    return None


@dataclass(frozen=True, slots=True)
class Region:
    """A region of an image: its box in pixels and as shares of the image, and what is in it."""

    box: tuple[float, float, float, float]
    shares: tuple[float, float, float, float]
    caption: str | None


@dataclass(frozen=True, kw_only=True, slots=True)
class RegionReader:
    """The regions of a source's samples. `given` are the boxes of a file by image, None for those of the
    samples, whose class names are `classes`."""

    given: Mapping[str, Sequence[Given]] | None
    classes: tuple[str, ...]
    size: int | None
    settings: Mapping[str, Any]
    named: bool  # whether rows may have captions

    def of(self, sample: Sample) -> list[Region]:
        """The regions of a sample's main image; none if it has no boxes, and then it is not read.

        Raises BadSample for a box outside of the image or without area, and for too many.
        """
        boxes = self._boxes(sample)
        if not boxes:
            return []
        if len(boxes) > MOST:
            raise BadSample(f"more-than-{MOST}-regions", f"{len(boxes)} boxes")
        [image] = main_image(sample)
        size = size_of(image)
        found = []
        for box, caption in boxes:
            shares = inside(box, size)
            if shares is None:
                raise BadSample(BAD_BOX, outside(box, "this image", size))
            found.append(Region(box, shares, caption.strip() or None))
        return found

    def _boxes(self, sample: Sample) -> list[tuple[tuple[float, float, float, float], str]]:
        if self.given is None:
            return [
                (box.xyxy, thing_of(box, self.classes))
                for box in sample.boxes
                if box.image == "main"
            ]
        own = self.given.get(sample.key, ())
        if not own and "main" in sample.images:
            own = self.given.get(file_of(sample.images["main"]), ())
        return [(each.box, each.name) for each in own]

    def preprocess(self, model: Any) -> Preprocess:
        """How images are read for a model."""
        return squashed(model.preprocess, self.size)

    def embed(
        self, model: Any, pixels: Tensor, regions: Sequence[Sequence[Region]], batch_size: int
    ) -> Tensor:
        """Unit vectors (R, E) of the regions of images (N, 3, H, W), image by image."""
        boxes = [[region.shares for region in own] for own in regions]
        found = model.embed_regions(pixels, boxes, size=self.size, batch_size=batch_size)
        return found.vectors[found.there]


def region_reader(regions: Regions, source: Source, model: Any) -> RegionReader:
    """Return what reads the regions of a source.

    Raises InputError for a model that embeds no regions, a source without images or boxes, and a file
    without boxes or with boxes of other images.
    """
    require(model, "embed_regions", "diptych embed --regions", model.name)
    squashed(model.preprocess, regions.size)
    fields = source.schema()
    if "images.main" not in fields:
        raise InputError(
            f"{source.name} has no images to embed regions of; its fields are {', '.join(fields)}"
        )
    settings: dict[str, Any] = {"size": regions.size}
    if regions.boxes is None:
        if "boxes" not in fields:
            raise InputError(
                f"{source.name} has no boxes; name data that have some, or give a file with --boxes, such as "
                "`diptych detect --json` prints"
            )
        classes = fields["boxes"].classes
        return RegionReader(
            given=None, classes=classes, size=regions.size, settings=settings, named=True
        )
    given = read_boxes(regions.boxes)
    _refuse_others(regions.boxes, given, source)
    settings["boxes"] = hashlib.sha256(Path(regions.boxes).read_bytes()).hexdigest()
    named = any(each.name for own in given.values() for each in own)
    return RegionReader(given=given, classes=(), size=regions.size, settings=settings, named=named)


def _refuse_others(boxes: str | Path, given: Mapping[str, Any], source: Source) -> None:
    """Raise InputError if a file has boxes of an image that the source lacks."""
    rest = dict.fromkeys(given)
    for key in source.keys():  # noqa: SIM118  (a source is no dict)
        rest.pop(key, None)
    for at in range(len(source) if rest else 0):  # by their files, which no source lists
        try:
            sample = source[at]
        except BadSample:
            continue
        if "main" in sample.images:
            rest.pop(file_of(sample.images["main"]), None)
        if not rest:
            return
    if rest:
        raise not_held(boxes, next(iter(rest)), source.name)
