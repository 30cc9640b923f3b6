"""Pointing: whether the positions most similar to a text are on the object that it describes.

    S_kn = <t_k, p_n>,   W_kn = (S_kn - min_n S) / (max_n S - min_n S)

t_k are the embeddings of texts that describe one object each, p_n those of the positions of their
image, through the projection of the image vector. By heat, S is the model's `heat`.

    pointing    the position with the largest S has pixels of the object; a tie for it is no hit
    iou         of the positions with W > 0.5, pixel by pixel, with the object's mask

Chance points at a random position, or marks every position. Masks are aligned with the image as its
pixels were.

Sources: Zhang et al. 2016, the pointing game, here on the positions of the tower; Zheng et al. 2024
(DreamLIP), W.

Dimensions: K texts, h x w positions, S side of the pixels.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any, Literal, get_args

import numpy as np
import torch
from torch import Tensor

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._patches import cells_of, laid_under
from diptych.methods.abilities import require
from diptych.models.dense import patch_vectors
from diptych.objectives.grouping import group_weights

card = {
    "title": "Pointing: where a text's object is, by patches",
    "needs": ["images.main", "texts", "masks.instance"],
    "abilities": ["preprocess"],  # represent and embed_texts, or heat, depending on `by`
}

By = Literal["embed", "heat"]


def ready(model: Any, source: Source, *, role: str = "long", by: By = "embed") -> None:
    """Raise InputError for a role that the source lacks, and for abilities that are missing."""
    if by not in get_args(By):
        raise unknown("way to point", by, get_args(By))
    for ability in ("represent", "embed_texts") if by == "embed" else ("heat",):
        require(model, ability, "pointing")
    if f"texts.{role}" not in source.schema():
        raise InputError(
            f"source {source.name!r} has no texts of role {role!r}; name one with --role"
        )


def pointing(
    model: Any,
    source: Source,
    *,
    role: str = "long",
    by: By = "embed",
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the measures above, with the chance values, over the texts of `role` that describe one
    object of the image.

    The object is given by the attribute `objects` of a text; object i has the number i + 1 in the
    mask `instance`. `by` is embed, the similarity of text and position, or heat, the model's own map.
    Also returned: `n` texts, `bad` samples by reason, and the protocol. Raises InputError if no text
    describes one object, and for a model whose image tower has no positions.
    """
    ready(model, source, role=role, by=by)
    steps = Steps(progress, len(source))
    bad = Counter[str]()

    def reported(sample: Sample) -> tuple[list[str], list[int], np.ndarray]:
        if "instance" not in sample.masks:
            raise BadSample("no-mask", f"{sample.key} has no mask 'instance'")
        plane = laid_under(np.asarray(sample.masks["instance"].decode()), model.preprocess, 0)
        texts = []
        numbers = []
        for text in sample.texts:
            objects = tuple(text.attrs.get("objects", ()))
            if text.role == role and len(objects) == 1 and (plane == objects[0] + 1).any():
                texts.append(text.text)
                numbers.append(objects[0] + 1)
        return texts, numbers, plane

    hits = []
    shares = []
    ious = []
    areas = []
    for pixels, facts in read_images(
        model, source, reported, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        said = [texts for texts, _, _ in facts]
        maps = _heats(model, pixels, said) if by == "heat" else _likenesses(model, pixels, said)
        for heat, (texts, numbers, plane) in zip(maps, facts, strict=True):
            if not texts:
                continue
            cells = cells_of(plane.shape, (heat.shape[1], heat.shape[2]))
            found = heat.flatten(1).numpy()
            for scores, number in zip(found, numbers, strict=True):
                mask = plane == number
                there = np.bincount(cells[mask], minlength=len(scores)) > 0
                best = scores == scores.max()
                hits.append(bool(best.sum() == 1 and there[best].all()))
                shares.append(there.mean())
                spread = scores.max() - scores.min()
                lit = (
                    ((scores - scores.min()) > 0.5 * spread)[cells]
                    if spread > 0
                    else np.ones_like(mask)
                )
                ious.append((lit & mask).sum() / (lit | mask).sum())
                areas.append(mask.mean())
    if not hits:
        raise InputError(
            f"no text of role {role!r} of source {source.name!r} speaks of one object that is seen"
        )
    protocol = protocol_of(
        "pointing",
        source,
        model,
        exact=exact,
        field=role,
        rule="texts of one object; the best position; W > 0.5",
        options=() if by == "embed" else (f"by={by}",),
    )
    return {
        "pointing": float(np.mean(hits)),
        "iou": float(np.mean(ious)),
        "chance_pointing": float(np.mean(shares)),
        "chance_iou": float(np.mean(areas)),
        "n": len(hits),
        "bad": dict(bad),
    } | describe(protocol, model)


def _likenesses(model: Any, pixels: Tensor, said: Sequence[list[str]]) -> Iterator[Tensor]:
    """Yield for each image the cosines (K, h, w) of its texts with its positions."""
    patches, grid = patch_vectors(model, pixels, len(pixels))
    for mine, texts in zip(patches, said, strict=True):
        vectors = model.embed_texts(texts).float() if texts else mine[:0]
        yield (vectors @ mine.T).unflatten(1, grid)


def _heats(model: Any, pixels: Tensor, said: Sequence[list[str]]) -> Iterator[Tensor]:
    """Yield for each image the heat (K, h, w) of its texts."""
    for image, texts in zip(pixels, said, strict=True):
        yield model.heat(image[None], texts)[0] if texts else torch.empty(0, 1, 1)


def ground(model: Any, image: Any, texts: Sequence[str], *, sigma: float = 0.0) -> Tensor:
    """Return the weights (K, h, w) of the positions of one image for each text; each map sums to 1.

    `image` is as in `Model.embed_images`; weights below `sigma` of the best are cut off
    (`objectives.grouping`).
    """
    patches, grid = patch_vectors(model, image)
    return group_weights(model.embed_texts(list(texts))[None], patches[:1], sigma=sigma)[
        0
    ].unflatten(1, grid)
