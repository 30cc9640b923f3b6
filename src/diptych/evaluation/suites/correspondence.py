"""Correspondence: whether a position in one crop of an image is most similar to the same place in
another crop.

    accuracy   share of positions p whose most similar position, argmax_q cos(x_p, x'_q), is near p

Two crops of each image are drawn as in training, mirrored and recoloured. Positions are near each
other if their distance in the image is below 0.7 of a cell's diagonal (`objectives.pixels`). Those
with nothing near in the other crop are left out. Both directions count. Chance picks a position of
the other crop at random. Nothing is trained.

Source: Xie et al. 2021 (PixPro), of whose positive pairs it is the accuracy.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.prefetch import ahead
from diptych.data.sample import BadSample, Source
from diptych.data.views import Augment, ImageView
from diptych.evaluation.embed import Progress, Steps, nothing_left
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._patches import level_option, represented
from diptych.objectives.pixels import positives
from diptych.rng import generator

card = {
    "title": "Correspondence: whether positions of two crops find the same place",
    "needs": ["images.main"],
    "abilities": ["preprocess", "represent"],
}

RATIO = 0.7
AUGMENT = Augment(crop=(0.3, 1.0), flip=True, colour=(0.4, 0.4, 0.2, 0.1), recoloured=0.8, grey=0.2)


def correspondence(
    model: Any,
    source: Source,
    *,
    level: int | None = None,
    seeds: Sequence[int] = (0,),
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `accuracy` of the positions and its chance value, the number `n` of positions, `bad`
    samples by reason, and the protocol.

    The crops are drawn by the first seed. `level` is the feature map of the tower
    (`Model.represent`). Transparent images have no crops, and count as bad. Raises InputError if no
    crops have a common area.
    """
    view = ImageView(preprocess=model.preprocess, augment=AUGMENT, count=2, crops=True)
    steps = Steps(progress, len(source))
    bad: Counter[str] = Counter()
    counts = torch.zeros(3, dtype=torch.float64)

    def read(index: int) -> dict[str, Any]:
        return view(source[index], generator(seeds[0], "correspondence", index), 1.0)

    for batch in ahead(read, range(len(source)), batch_size):
        bad.update(made.reason for made in batch if isinstance(made, BadSample))
        kept = [made for made in batch if not isinstance(made, BadSample)]
        if kept:
            pixels = torch.stack([made["images.main"] for made in kept])
            crops = torch.stack([made["fields.main.crops"] for made in kept])
            counts += _counts(model, pixels, crops, batch_size, level)
        steps.add(len(batch))
    right, expected, count = counts.tolist()
    if not count:
        raise nothing_left(source, bad)
    protocol = protocol_of(
        "correspondence",
        source,
        model,
        exact=False,
        field="",
        rule=f"the most similar position of the other crop is within {RATIO} of a cell's diagonal; both directions",
        options=(*level_option(level), f"seed={seeds[0]}"),
    )
    return {
        "n": int(count),
        "accuracy": right / count,
        "chance_accuracy": expected / count,
        "bad": dict(bad),
    } | describe(protocol, model)


def _counts(
    model: Any, pixels: Tensor, crops: Tensor, batch_size: int, level: int | None
) -> Tensor:
    """How many positions of images (B, 2, 3, H, W) with crops (B, 2, 4) are right, would be by
    chance, and have a position near them at all (3,)."""
    features, grid = represented(model, pixels.flatten(0, 1), batch_size, level)
    one, other = normalize(features, dim=-1).unflatten(0, (-1, 2)).unbind(1)
    near = positives(crops[:, 0], crops[:, 1], grid, RATIO)
    return _right(one @ other.mT, near) + _right(other @ one.mT, near.mT)


def _right(cosines: Tensor, near: Tensor) -> Tensor:
    found = near.gather(2, cosines.argmax(2, keepdim=True))
    shares = near.double().mean(2)
    return torch.stack([found.sum(), shares.sum(), near.any(2).sum()]).double()
