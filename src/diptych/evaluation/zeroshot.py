"""Zero-shot classification: a class is the mean direction of its name in several prompts.

    class_c = unit( mean_t unit(text(template_t with name_c)) ),        prediction = argmax_c <image, class_c>

Source: Radford et al. 2021 (CLIP), section 3.1.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch.nn.functional import normalize

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, embed_pictures, embed_texts
from diptych.evaluation.protocol import Protocol, data_of, describe, precision_of, split_of
from diptych.metrics import class_ranks, per_class

card = {"title": "Zero-shot classification by class names", "needs": ["images.main", "labels"]}

TEMPLATES = (
    "{}",
    "a photo of a {}.",
    "a photo of the {}.",
    "a close-up of a {}.",
    "a picture that shows a {}.",
    "a drawing of a {}.",
    "an image of one {}.",
)


def zeroshot(
    model: Any,
    source: Source,
    *,
    label: str | None = None,
    templates: Sequence[str] = TEMPLATES,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Accuracy of naming each picture's class: `top1`, `top5`, `mean_per_class`, and what chance gives.

    `label` is one whose classes the source names: "class", or the first. Also given: `n` pictures, `classes`,
    `classes_seen` (those with pictures, over which the mean is), `bad` samples by reason, and the protocol. Samples
    without the label (-1) are left out. Ties count against the model.
    """
    label = _label(source, label)
    names = source.schema()[f"labels.{label}"].classes
    for template in templates:
        if template.count("{}") != 1:
            raise InputError(f"template {template!r} must hold {{}} once, where the class name goes")
    if not templates:
        raise InputError("no template is given; give at least '{}'")

    def known(sample: Sample) -> int:
        value = int(sample.labels.get(label, -1))
        if not 0 <= value < len(names):
            raise BadSample("no-label", f"{sample.key} has no {label}")
        return value

    steps = Steps(progress, len(source) + len(names) * len(templates))
    prompts = [template.replace("{}", name) for name in names for template in templates]
    vectors = normalize(embed_texts(model, prompts, batch_size=batch_size, steps=steps), dim=1)
    classes = normalize(vectors.unflatten(0, (len(names), len(templates))).mean(1), dim=1)
    images = embed_pictures(model, source, known, exact=exact, batch_size=batch_size, steps=steps)
    labels = np.array(images.facts)
    rank = class_ranks(images.vectors @ classes.T, labels)
    by_class = per_class(rank <= 1, labels, len(names))
    protocol = Protocol(
        task="zeroshot",
        data=data_of(source),
        split=split_of(source.keys()),
        field=label,
        prompts=tuple(templates),
        classes=names,
        rule="mean of unit prompt vectors, unit; ties lose",
        decoding="full" if exact else "scaled",
        precision=precision_of(model),
    )
    return {
        "n": len(labels),
        "classes": len(names),
        "classes_seen": int(np.isfinite(by_class).sum()),
        "top1": float((rank <= 1).mean()),
        "top5": float((rank <= 5).mean()),
        "mean_per_class": float(np.nanmean(by_class)),
        "chance_top1": 1 / len(names),
        "chance_top5": min(5, len(names)) / len(names),
        "bad": dict(images.bad),
    } | describe(protocol, model)


def _label(source: Source, label: str | None) -> str:
    """The label to predict; it must have class names."""
    named = {
        name.removeprefix("labels."): field
        for name, field in source.schema().items()
        if name.startswith("labels.") and field.classes
    }
    if label is None:
        if not named:
            raise InputError(f"zeroshot needs a label with class names, which source {source.name!r} does not give")
        return "class" if "class" in named else next(iter(named))
    if label not in named:
        raise unknown(f"label with class names of source {source.name!r}", label, named)
    return label
