"""Rotation: how the embedding space of a model has moved since an earlier model, in each modality
and between the two.

    rotation_SIDE       mean_i ∠(x_i, x'_i)                       old and new embedding of one sample
    self_angle_SIDE     mean_{i<j} | ∠(x_i, x_j) - ∠(x'_i, x'_j) |  change of the shape inside a modality
    pair_angle          mean_i ∠(x_i, y_i), and `pair_angle_before`: image and text of one sample
    pair_angle_change   mean_i | ∠(x_i, y_i) - ∠(x'_i, y'_i) |
    deviation           mean_v ∠(v R_image, v R_text)             v: all old vectors, images and texts

x', y' are the old vectors of images and texts. R_SIDE is the orthogonal map that brings the old
vectors of a modality nearest to the new ones, and `fit_SIDE` the mean cosine that it reaches. A
rotation that both modalities share has a large `rotation` and no `deviation`: matching pairs still
match. All angles are in degrees. SIDE is image or text.

Source: Ni et al. 2023 (Mod-X), whose spatial disorder these are; the maps are the orthogonal
Procrustes solution [reconstruction: the paper's own diagnostics were not recovered].

Dimensions: N pairs, E embedding.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.sample import Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, embed_images, embed_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites.continual import Checkpoint, loaded
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.metrics import Array

card = {
    "title": "Rotation of images and texts since an earlier model",
    "needs": ["images.main", "texts"],
    "abilities": ["embed_images", "embed_texts"],
}

_STRIP = 1024


def ready(
    model: Any, source: Source, *, earlier: Sequence[Checkpoint] = (), role: str | None = None
) -> None:
    """Raise InputError unless there is exactly one earlier model, and for a role that the source
    lacks."""
    if len(earlier) != 1:
        raise InputError(
            f"rotation compares the model with one earlier one, not {len(earlier)}; name it with --earlier"
        )
    role_of("rotation", source, role)


def rotation(
    model: Any,
    source: Source,
    *,
    earlier: Sequence[Checkpoint] = (),
    role: str | None = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the measures of `report` for the images of a source and their first texts of `role`
    (caption, or the first).

    Also returned: `n` pairs, `bad` samples by reason, the protocol. Raises InputError for models of
    different width.
    """
    ready(model, source, earlier=earlier, role=role)
    role = role_of("rotation", source, role)
    steps = Steps(progress, 4 * len(source))
    found = []
    old = loaded(earlier[0])

    def first_text(sample: Sample) -> str:
        return texts_of(sample, role)[0]

    for each in (old, model):
        images = embed_images(
            each, source, first_text, exact=exact, batch_size=batch_size, steps=steps
        )
        texts = embed_texts(each, images.facts, batch_size=batch_size, steps=steps)
        found.append((images, texts))
    (before, texts_before), (now, texts_now) = found
    protocol = protocol_of(
        "rotation",
        source,
        model,
        exact=exact,
        field=role,
        rule="unit vectors; the first text of each image; degrees",
        options=(f"earlier={getattr(old, 'name', 'model')}",),
    )
    numbers = report(before.vectors, texts_before, now.vectors, texts_now)
    return {"n": len(texts_now)} | numbers | {"bad": dict(now.bad)} | describe(protocol, model)


def report(old_image: Array, old_text: Array, image: Array, text: Array) -> dict[str, float]:
    """Return all measures of vectors (N, E), with rows of one sample in all four; they are
    normalised first.

    Raises InputError if the shapes differ or there are fewer than two pairs.

    >>> generator = torch.Generator().manual_seed(0)
    >>> x, y = torch.randn(2, 50, 8, generator=generator)
    >>> turn = torch.linalg.qr(torch.randn(8, 8, generator=generator)).Q
    >>> both, one = report(x, y, x @ turn, y @ turn), report(x, y, x @ turn, y)
    >>> round(both["deviation"], 3), one["deviation"] > 45, round(one["self_angle_image"], 3)
    (0.0, True, 0.0)
    """
    given = [torch.as_tensor(values) for values in (old_image, old_text, image, text)]
    shapes = {tuple(values.shape) for values in given}
    if len(shapes) > 1 or given[0].dim() != 2 or len(given[0]) < 2:
        raise InputError(
            f"vectors of shapes {sorted(shapes)} are not the same pairs before and after; give two models "
            "of one width, and two pairs at the least"
        )
    x_old, y_old, x, y = (normalize(values.detach().double().cpu(), dim=1) for values in given)
    found: dict[str, float] = {}
    maps = []
    for side, old, new in (("image", x_old, x), ("text", y_old, y)):
        turn = nearest_rotation(old, new)
        found[f"rotation_{side}"] = float(_angles(old, new).mean())
        found[f"self_angle_{side}"] = self_angle_change(old, new)
        found[f"fit_{side}"] = float(((old @ turn) * new).sum(1).mean())
        maps.append(turn)
    before = _angles(x_old, y_old)
    now = _angles(x, y)
    found["pair_angle_before"] = float(before.mean())
    found["pair_angle"] = float(now.mean())
    found["pair_angle_change"] = float((now - before).abs().mean())
    every = torch.cat([x_old, y_old])
    found["deviation"] = float(_angles(every @ maps[0], every @ maps[1]).mean())
    return found


def nearest_rotation(old: Tensor, new: Tensor) -> Tensor:
    """Return the orthogonal R (E, E) that minimises |old R - new|: U V^T of the singular vectors of
    old^T new."""
    u, _, v = torch.linalg.svd(old.T @ new)
    return u @ v


def self_angle_change(old: Tensor, new: Tensor) -> float:
    """Return the mean change in degrees of the angle between two rows, over all pairs of different
    rows; computed in strips."""
    total = 0.0
    count = len(old)
    for start in range(0, count, _STRIP):
        rows = slice(start, start + _STRIP)
        change = (_degrees(old[rows] @ old.T) - _degrees(new[rows] @ new.T)).abs()
        change.diagonal(start).zero_()
        total += float(change.sum())
    return total / (count * (count - 1))


def _angles(x: Tensor, y: Tensor) -> Tensor:
    return _degrees((x * y).sum(1))


def _degrees(cosines: Tensor) -> Tensor:
    return cosines.clamp(-1, 1).arccos().rad2deg()
