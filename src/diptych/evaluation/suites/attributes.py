"""Attributes: which of all regions have an attribute that a text names, of regions with several.

    v_r = unit( RoIAlign(z, box_r) ),      scores_ra = <v_r, t_a>

t_a is the mean direction of the attribute's name in several templates. Attributes rank all regions of
the data, and regions rank all attributes.

    t2r_r_precision      for each attribute the share of its own among the first R regions, R how many
                         have it; the mean over attributes
    t2r_p1, t2r_p5       the share among the first one and five
    t2r_map              average precision, the mean over attributes
    r2t_r_precision      for each region the share of its own among the first R attributes; the mean

A box has the attributes that its text mentions, and its class. Ties count against the model. Chance of
the measures of t2r is the share of regions that have the attribute, its mean over attributes; of r2t it
is that of the attributes that a region has.

Source: Varma et al. 2023 (ViLLA), which reports R-Precision and precision at k.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from diptych.data.boxes import attributes_of, shares
from diptych.data.images import size_of
from diptych.data.matcher import Matcher
from diptych.data.sample import Sample, Source
from diptych.data.templates import BANKS, checked
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Reader, Steps, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._class_scores import class_vectors
from diptych.metrics import average_precision, precision_at
from diptych.models.class_names import check_names
from diptych.models.regions import squashed

card = {
    "title": "Attributes: regions with several of them, found by their names",
    "needs": ["images.main", "boxes"],
    "abilities": ["preprocess", "embed_regions", "embed_texts"],
}


def ready(
    model: Any,
    source: Source,
    *,
    names: Sequence[str] = (),
    templates: Sequence[str] = BANKS["images"],
) -> None:
    """Raise InputError if the attributes have no names, and for bad templates."""
    checked(templates, "attributes")
    _matcher(source, names)


def attributes(
    model: Any,
    source: Source,
    *,
    names: Sequence[str] = (),
    templates: Sequence[str] = BANKS["images"],
    route: str | None = None,
    size: int | None = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the measures above with their chance values, and those of each attribute in
    `by_attribute`.

    `names` are the attributes, by default the classes of the source's boxes. `route` and `size` are
    those of `Model.embed_regions`. Also returned: `n` regions, `images`, `attributes` that occur,
    `bad` samples by reason, and the protocol. Raises InputError if no region has one of them.
    """
    ready(model, source, names=names, templates=templates)
    matcher = _matcher(source, names)
    steps = Steps(progress, len(source) + len(matcher.names) * len(templates))
    texts = class_vectors(model, matcher.names, templates, batch_size=batch_size, steps=steps)
    classes = source.schema()["boxes"].classes
    bad = Counter[str]()
    found = []
    truth = []
    images = 0

    def given(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
        pixels = size_of(sample.images["main"])
        boxes, _ = shares(sample, pixels, classes, named=False)
        return boxes, attributes_of(sample, pixels, classes, matcher)

    reader = Reader(squashed(model.preprocess, size))
    for pixels, facts in read_images(
        reader, source, given, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        boxes = [own for own, _ in facts]
        vectors = model.embed_regions(pixels, boxes, route=route, size=size, batch_size=batch_size)
        found.append(vectors.vectors[vectors.there])
        truth += [own for _, own in facts]
        images += len(facts)
    relevant = np.concatenate(truth) if truth else np.zeros((0, len(matcher.names)), bool)
    if not relevant.any():
        raise InputError(
            f"no box of {source.name!r} mentions an attribute, such as {matcher.names[0]!r}; name others with --names"
        )
    scores = (torch.cat(found).double() @ texts.double().T).cpu().numpy()
    options = (
        route is not None and f"route={route}",
        size is not None and f"size={size}",
    )
    protocol = protocol_of(
        "attributes",
        source,
        model,
        exact=exact,
        field="boxes",
        classes=matcher.names,
        prompts=tuple(templates),
        options=tuple(option for option in options if option),
        rule="RoIAlign of unit positions of the whole image; ties count against",
    )
    return (
        {"n": len(relevant), "images": images}
        | measured(scores, relevant, matcher.names)
        | {"bad": dict(bad)}
        | describe(protocol, model)
    )


def _matcher(source: Source, names: Sequence[str]) -> Matcher:
    """What finds the attributes in texts of boxes. Raises InputError where none are known."""
    if "boxes" not in source.schema():
        raise InputError(f"source {source.name!r} has no boxes; give one that has")
    names = names or source.schema()["boxes"].classes
    if not names:
        raise InputError(
            f"the boxes of {source.name!r} have no class names; name the attributes with --names 'red,blue'"
        )
    return Matcher(check_names(names), plural=False)


def measured(scores: np.ndarray, relevant: np.ndarray, names: Sequence[str]) -> dict[str, Any]:
    """The measures of scores (N, A) of N regions and A attributes, given which regions have which
    attributes (N, A) bool."""
    of_texts = {
        "r_precision": precision_at(scores, relevant),
        "p1": precision_at(scores, relevant, 1),
        "p5": precision_at(scores, relevant, 5),
        "map": average_precision(scores, relevant),
    }
    seen = relevant.any(0)
    share = relevant.mean(0)
    results: dict[str, Any] = {"attributes": int(seen.sum())}
    for name, values in of_texts.items():
        results[f"t2r_{name}"] = float(np.nanmean(values))
        results[f"chance_t2r_{name}"] = float(share[seen].mean())
    of_regions = precision_at(scores.T, relevant.T)
    held = relevant[relevant.any(1)].mean(1)
    results |= {
        "r2t_r_precision": float(np.nanmean(of_regions)),
        "chance_r2t_r_precision": float(held.mean()),
    }
    results["by_attribute"] = {
        names[at]: {name: float(values[at]) for name, values in of_texts.items()}
        for at in np.flatnonzero(seen).tolist()
    }
    return results
