"""Words: which word is written in a box of a page, by a linear probe of frozen features.

    v_n = Σ_q w_nq F_q / Σ_q w_nq,   w_nq the share of position q inside box n
    word(n) = argmax_c of a logistic regression of v_n, fitted on the boxes of other pages

F are the tokens of the image tower (`represent`); pages are read whole, squashed to the model's size.
Words are the texts of boxes as they are written. A word that no training page has counts as wrong, as
ties do. Chance is always the most common word.

Source: Li et al. 2024 (DoCo), pooling by the overlap of patches; the probe is ours.

Dimensions: n boxes, D width.
"""

from collections import Counter
from typing import Any

import numpy as np
import torch

from diptych.data.boxes import shares
from diptych.data.images import size_of
from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Reader, Steps, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites._accuracy import hit_rates
from diptych.evaluation.suites._features import split
from diptych.linear import classifier, hits
from diptych.methods.abilities import require
from diptych.models.regions import squashed
from diptych.towers.regions import pool_areas

card = {
    "title": "Words: the word in a box of a page, by a linear probe",
    "needs": ["images.main", "boxes"],
    "abilities": ["preprocess", "represent"],
}

CS = (0.01, 0.1, 1.0, 10.0)
"""The regularisations that the probe chooses from."""


def ready(
    model: Any, source: Source, *, train: Source | str | None = None, route: str = "tokens"
) -> None:
    """Raise InputError for a model without `represent`, and for sources without boxes."""
    require(model, "represent", "words")
    pages = split(source, train, 0)
    for each in (pages.train, pages.test):
        if "boxes" not in each.schema():
            raise InputError(
                f"source {each.name!r} has no boxes; give pages with the boxes of their words"
            )


def words(
    model: Any,
    source: Source,
    *,
    train: Source | str | None = None,
    route: str = "tokens",
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `top1` and `mean_per_class`, with their chance values.

    `train`, a source or its spec, has the pages that the probe learns from; without it these are four
    fifths of `source`. `route` is that of `represent`. Also returned: `n` boxes, `n_train`, `classes`,
    the number of words of training, `unseen`, the share of test boxes with another word, `C`, `bad`
    samples by reason, and the protocol. Raises InputError for a tower without positions, and if there
    are no words to learn or to judge.
    """
    ready(model, source, train=train, route=route)
    pages = split(source, train, 0)
    steps = Steps(progress, len(pages.train) + len(pages.test))
    bad = Counter[str]()
    how: dict[str, Any] = {"batch_size": batch_size, "exact": exact, "steps": steps}
    x, y, owners = _boxes(model, pages.train, route, bad, **how)
    test_x, test_y, _ = _boxes(model, pages.test, route, bad, **how)
    found, C = classifier(x, y, owners=owners, cs=CS)
    protocol = protocol_of(
        "words",
        source,
        model,
        exact=exact,
        field="boxes",
        options=(*pages.options, *([f"route={route}"] if route != "tokens" else [])),
        rule="shares of areas; logistic regression; unseen words and ties lose",
    )
    return (
        {"n": len(test_y), "n_train": len(y)}
        | hit_rates(hits(found, test_x, test_y), y, test_y)
        | {
            "classes": len(np.unique(y)),
            "unseen": float((~np.isin(test_y, y)).mean()),
            "C": C,
            "bad": dict(bad),
        }
        | describe(protocol, model)
    )


def _boxes(
    model: Any, source: Source, route: str, bad: Counter[str], **how: Any
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The features (n, D) of all boxes with a text, their texts (n,), and the numbers of their pages."""

    def written(sample: Sample) -> tuple[np.ndarray, list[str]]:
        boxes, texts = shares(sample, size_of(sample.images["main"]), ())
        if not texts:
            raise BadSample("no-words", f"{sample.key} has no box with a text")
        return boxes, texts

    features = []
    texts: list[str] = []
    owners: list[int] = []
    count = 0
    reader = Reader(squashed(model.preprocess))
    for pixels, facts in read_images(reader, source, written, bad, **how):
        encoded = model.represent(pixels, batch_size=how["batch_size"], route=route)
        if encoded.grid is None:
            raise InputError(
                "the image tower of this model pools its positions away, and words are read from these; choose another"
            )
        rows = torch.nn.utils.rnn.pad_sequence(
            [torch.from_numpy(boxes) for boxes, _ in facts], batch_first=True
        )
        found = pool_areas(encoded.patches, rows, encoded.grid)
        for at, (_, own) in enumerate(facts):
            features.append(found[at, : len(own)].numpy())
            texts += own
            owners += [count + at] * len(own)
        count += len(facts)
    return np.concatenate(features), np.array(texts), np.array(owners)
