"""Regions: the names of given regions of images, by the similarity of their vectors with class names.

    v_r = unit( RoIAlign(z, box_r) )     or     unit( mean of z over the mask )
    class(r) = argmax_c <v_r, t_c>

z are the unit vectors of positions, t_c is the mean direction of the class's name in several
templates. Boxes are those of the source; with a mask, the regions of an image are the areas of its
classes. Images are read whole, squashed to a square.

    top1, top5               the share of regions whose class is the first, among the first five
    mean_top1, mean_top5     the mean over the classes that occur
    ap                       the mean over them of COCO's average precision, each region being a detection of each
                             class c with the score softmax_c(100 <v_r, t_c>); regions are given, so that it is the
                             same at all overlaps
    thing_…, stuff_…         the same of things, and of stuff, among all classes, where the data tells them apart

Ties count against the model. Chance is one class in C, or five; of `ap` about the share of a class.

Sources: He et al. 2017, RoIAlign; Wu et al. 2024 (CLIM), both ways to pool.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.boxes import boxes_of, object_mask, shares, things
from diptych.data.images import Preprocess, size_of
from diptych.data.masks import VOID
from diptych.data.sample import BadSample, Sample, Source
from diptych.data.templates import BANKS, checked
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Reader, Steps, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._average_precision import average_precision
from diptych.evaluation.suites._class_scores import class_vectors
from diptych.evaluation.suites._labels import Novel, base_and_novel, novel_classes
from diptych.evaluation.suites._patches import laid_under
from diptych.evaluation.suites.dense import mask_of, renumbered
from diptych.metrics import per_class, ranks
from diptych.models.dense import GROUND
from diptych.models.regions import squashed

card = {
    "title": "Regions: classes of given boxes or masks by their names",
    "needs": ["images.main"],
    "abilities": ["preprocess", "embed_regions", "embed_texts"],
}


SCALE = 100.0
TILE = 1 << 14  # regions whose scores are held at once
OBJECTS = "object"
"""The name that asks for the masks of the objects in boxes."""


def ready(
    model: Any,
    source: Source,
    *,
    mask: str | None = None,
    templates: Sequence[str] = BANKS["images"],
    novel: Novel | None = None,
) -> None:
    """Raise InputError for boxes or a mask that the source lacks, and for bad templates and
    names."""
    checked(templates, "regions")
    names = _names(source, mask)
    if novel is not None:
        novel_classes(names, novel)


def regions(
    model: Any,
    source: Source,
    *,
    mask: str | None = None,
    templates: Sequence[str] = BANKS["images"],
    novel: Novel | None = None,
    route: str | None = None,
    size: int | None = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the measures above with their chance values, and each class's `top1` in `by_class`.

    `mask` names a mask with class names whose areas are the regions, in place of the boxes; "object" are
    the masks of the objects in the boxes, without those that have no pixel at this size. `route`
    and `size` are those of `Model.embed_regions`. With `novel`: `base_top1`, `novel_top1` and their
    harmonic mean `harmonic`, each among its own classes. Also returned: `n` regions, `images`,
    `classes`, `classes_seen`, `bad` samples by reason, and the protocol. Raises InputError if there
    is no region with a name, and for a model whose image tower has no positions.
    """
    ready(model, source, mask=mask, templates=templates, novel=novel)
    names = _names(source, mask)
    steps = Steps(progress, len(source) + len(names) * len(templates))
    texts = class_vectors(model, names, templates, batch_size=batch_size, steps=steps)
    reader = Reader(squashed(model.preprocess, size))
    bad = Counter[str]()
    found: list[Tensor] = []
    truth: list[int] = []
    images = 0

    def given(sample: Sample) -> tuple[np.ndarray, list[int]]:
        if mask is None:
            return _boxes(sample, source, names)
        if mask == OBJECTS:
            return _objects(sample, source, names, reader.preprocess)
        return _areas(sample, source, mask, names, reader.preprocess)

    for pixels, facts in read_images(
        reader, source, given, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        rows = [own for own, _ in facts]
        way = {"boxes": rows} if mask is None else {"masks": rows}
        vectors = model.embed_regions(pixels, **way, route=route, size=size, batch_size=batch_size)
        found.append(vectors.vectors[vectors.there])
        truth += [number for _, numbers in facts for number in numbers]
        images += len(facts)
    if not truth:
        raise InputError(
            f"no region of source {source.name!r} has a name; there is nothing to name"
        )
    labels = np.array(truth)
    vectors = torch.cat(found)
    rank = ranks(vectors, texts, labels)
    results = _measured(rank, labels, names) | {"ap": _precision(vectors, texts, labels)}
    if mask in (None, OBJECTS):
        results |= _by_kind(rank, labels, names, source.schema()["boxes"].stuff)
    held_out = None if novel is None else novel_classes(names, novel)
    if held_out is not None:
        results |= base_and_novel(vectors, texts, labels, held_out)
    options = (
        route is not None and f"route={route}",
        size is not None and f"size={size}",
        held_out is not None and f"novel={','.join(np.array(names)[held_out])}",
    )
    protocol = protocol_of(
        "regions",
        source,
        model,
        exact=exact,
        field=mask or "boxes",
        classes=tuple(names),
        prompts=tuple(templates),
        options=tuple(option for option in options if option),
        rule="RoIAlign or mean of unit positions of the whole image; ties count against",
    )
    return (
        {"n": len(labels), "images": images}
        | results
        | {"bad": dict(bad)}
        | describe(protocol, model)
    )


def _names(source: Source, mask: str | None) -> tuple[str, ...]:
    """The names of the classes: those of the boxes, or of a mask without its background."""
    if mask == OBJECTS and "boxes.mask" not in source.schema():
        raise InputError(
            f"the boxes of source {source.name!r} have no masks of objects; leave --mask {OBJECTS} out"
        )
    if mask in (None, OBJECTS):
        if "boxes" not in source.schema():
            raise InputError(
                f"source {source.name!r} has no boxes; give one that has, or name a mask with --mask"
            )
        return things(source)
    mask = mask_of(source, mask, "regions")
    return tuple(name for name in source.schema()[f"masks.{mask}"].classes if name != GROUND)


def _boxes(sample: Sample, source: Source, names: Sequence[str]) -> tuple[np.ndarray, list[int]]:
    """The boxes of a sample as shares of its image, and the numbers of their names."""
    classes = source.schema()["boxes"].classes
    boxes, held = shares(sample, size_of(sample.images["main"]), classes)
    number = {name: at for at, name in enumerate(names)}
    return boxes, [number[name] for name in held]


def _objects(
    sample: Sample, source: Source, names: Sequence[str], preprocess: Preprocess
) -> tuple[np.ndarray, list[int]]:
    """The masks (R, h, w) of the objects of a sample, under its pixels, and their numbers."""
    classes = source.schema()["boxes"].classes
    size = size_of(sample.images["main"])
    planes = [
        laid_under(object_mask(box, size).astype(np.uint8), preprocess, VOID) == 1
        for box in boxes_of(sample, size, classes)
    ]
    _, held = shares(sample, size, classes)
    number = {name: at for at, name in enumerate(names)}
    seen = [(plane, number[name]) for plane, name in zip(planes, held, strict=True) if plane.any()]
    rows = np.stack([plane for plane, _ in seen]) if seen else np.zeros((0, 1, 1))
    return rows, [at for _, at in seen]


def _areas(
    sample: Sample, source: Source, mask: str, names: Sequence[str], preprocess: Preprocess
) -> tuple[np.ndarray, list[int]]:
    """The areas (R, h, w) of the classes in a sample's mask, under its pixels, and their numbers."""
    if mask not in sample.masks:
        raise BadSample("no-mask", f"{sample.key} has no mask {mask!r}")
    own = source.schema()[f"masks.{mask}"].classes
    plane = laid_under(
        renumbered(np.asarray(sample.masks[mask].decode()), own, names), preprocess, VOID
    )
    present = np.unique(plane[plane != VOID]).tolist()
    return np.stack([plane == at for at in present]) if present else np.zeros((0, 1, 1)), present


def _by_kind(
    rank: np.ndarray, labels: np.ndarray, names: Sequence[str], stuff: Sequence[str]
) -> dict[str, float]:
    """The shares of regions of things, and of stuff, by the rank (n,) of their class among all; none if
    there is no stuff."""
    if not stuff:
        return {}
    of_stuff = np.isin(names, stuff)
    results: dict[str, float] = {}
    for kind, own in (("thing", ~of_stuff[labels]), ("stuff", of_stuff[labels])):
        for count in (1, 5) if own.any() else ():
            hits = rank[own] <= count
            by_class = per_class(hits, labels[own], len(names))
            chance = min(count, len(names)) / len(names)
            results |= {
                f"{kind}_top{count}": float(hits.mean()),
                f"{kind}_mean_top{count}": float(np.nanmean(by_class)),
                f"chance_{kind}_top{count}": chance,
                f"chance_{kind}_mean_top{count}": chance,
            }
    return results


def _precision(vectors: Tensor, texts: Tensor, labels: np.ndarray) -> float:
    """The mean over the classes that occur of the average precision of their scores for regions."""
    tiles = [(SCALE * tile @ texts.T).logsumexp(1) for tile in vectors.split(TILE)]
    norms = torch.cat(tiles)
    found = []
    for number in np.unique(labels).tolist():
        own = labels == number
        scores = SCALE * vectors @ texts[number] - norms
        found.append(average_precision(scores.numpy(), own, int(own.sum())))
    return float(np.mean(found))


def _measured(rank: np.ndarray, labels: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The shares of regions by the rank (n,) of their class, over all and by class."""
    results: dict[str, Any] = {"classes": len(names)}
    for count in (1, 5):
        by_class = per_class(rank <= count, labels, len(names))
        chance = min(count, len(names)) / len(names)
        results |= {
            f"top{count}": float((rank <= count).mean()),
            f"mean_top{count}": float(np.nanmean(by_class)),
            f"chance_top{count}": chance,
            f"chance_mean_top{count}": chance,
        }
    first = per_class(rank <= 1, labels, len(names))
    results["classes_seen"] = int(np.isfinite(first).sum())
    results["by_class"] = {
        names[at]: {"top1": float(first[at])} for at in np.flatnonzero(np.isfinite(first)).tolist()
    }
    return results
