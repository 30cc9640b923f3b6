"""CLIP-I: the similarity of generated images to real images of their class.

    m_c = unit( mean unit vector of the images of class c ),      clip_i = mean over drawn x of c of <x, m_c>

Vectors are the model's own image embeddings, or those of another model, the judge. `top1` is the
share of generated images that are nearer to the mean of their class than to any other. Chance uses
generated images of one class for another: for `clip_i` it is the mean cosine between the means of
two classes.
"""

from collections import Counter
from typing import Any

import torch
from torch.nn.functional import normalize

from diptych.data.sample import Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, embed_images, label_of
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._labels import named_label
from diptych.metrics import ranks

card = {
    "title": "CLIP-I: drawn images against those of their class",
    "needs": ["images.main", "labels"],
    "abilities": ["embed_images", "set_classes", "draw"],
}


def ready(model: Any, source: Source, *, label: str | None = None, draws: int = 8) -> None:
    """Raise InputError for a label without names, and for fewer than one image per class."""
    named_label("clip_i", source, label)
    if draws < 1:
        raise InputError(f"{draws} drawings of a class are none; draw 1 at least")


def clip_i(
    model: Any,
    source: Source,
    *,
    label: str | None = None,
    draws: int = 8,
    guidance: float = 3.0,
    seed: int = 0,
    judge: Any = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the measures above, for `draws` images of each class that has images in the source,
    from noise of `seed`.

    Also returned: `n` generated images, `classes`, `bad` samples by reason, and the protocol.

    `judge` embeds in place of the model. Raises InputError if fewer than two classes have images.
    """
    ready(model, source, label=label, draws=draws)
    label = named_label("clip_i", source, label)
    names = source.schema()[f"labels.{label}"].classes
    judge = model if judge is None else judge

    def of_class(sample: Sample) -> int:
        return int(label_of(sample, label))

    steps = Steps(progress, len(source))
    seen = embed_images(judge, source, of_class, exact=exact, batch_size=batch_size, steps=steps)
    counts = Counter[int](seen.facts)
    shown = sorted(counts)
    if len(shown) < 2:
        raise InputError(
            f"source {source.name!r} has images of {len(shown)} class of {label!r}; clip_i tells two or more apart"
        )
    labels = torch.tensor(seen.facts)
    means = normalize(torch.stack([seen.vectors[labels == at].mean(0) for at in shown]), dim=1)
    model.set_classes([names[at] for at in shown])
    drawn = [model.draw(names[at], draws, guidance=guidance, seed=seed) for at in shown]
    vectors = judge.embed_images(
        [image for images in drawn for image in images], batch_size=batch_size
    )
    own = torch.arange(len(shown)).repeat_interleave(draws)
    others = ~torch.eye(len(shown), dtype=torch.bool)
    protocol = protocol_of(
        "clip_i",
        source,
        judge,
        exact=exact,
        field=label,
        classes=names,
        rule="cosine to the mean; ties lose",
        options=(
            f"draws={draws}",
            f"guidance={guidance:g}",
            f"seed={seed}",
            f"judge={getattr(judge, 'name', '')}",
        ),
    )
    return {
        "clip_i": float((vectors * means[own]).sum(1).mean()),
        "top1": float((ranks(vectors, means, own) <= 1).mean()),
        "chance_clip_i": float((means @ means.T)[others].mean()),
        "chance_top1": 1 / len(shown),
        "n": len(vectors),
        "classes": len(shown),
        "bad": dict(seen.bad),
    } | describe(protocol, model)
