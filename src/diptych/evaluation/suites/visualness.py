"""Visualness: whether texts that describe something visible are separated from those that do not.

    S(t) = 1 - <x_null, t>,      visual where S > threshold

x_null is the NULL image of a model that was trained with one, `model.null`; for any other embedding
model it is the one of seed 0. A label marks the visual texts, or whether their sample has an image.
Macro measures are means over both classes; AUROC, of S, needs no threshold. To measure what is left
of retrieval, run the suite `retrieval` on the same data, which leaves samples without an image out.
With a `lexicon` of rated words it also measures whether the text tower attends to the words that
people rated high, and with a `drawer` whether drawings of visual texts are more like them.

Source: Verma et al. 2023 (TIP-CLIP).
"""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diptych.data.images import noise_image
from diptych.data.sample import Sample, Source, is_visual
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, as_vectors, embed_texts, read_texts
from diptych.evaluation.protocol import data_of, describe, protocol_of, split_of
from diptych.evaluation.suites._drawings import check_drawer, drawn
from diptych.evaluation.suites._words import attention_report, ratings
from diptych.evaluation.suites.degeneration import loaded
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.metrics import TIE, best_threshold, lab
from diptych.models.word_attention import check_attends, word_attention

card = {
    "title": "Visualness: texts that speak of what can be seen",
    "needs": ["texts"],
    "abilities": ["embed_images", "embed_texts"],
}

LABELS = ("visual", "label")
"""Labels that mark the visual texts if none is given."""


def ready(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    label: str | None = None,
    train: Source | str | None = None,
    lexicon: str | None = None,
    drawer: Any = None,
    draws: int = 4,
) -> None:
    """Raise InputError for a role and a label that the sources lack, for a lexicon that cannot be
    read or a text tower whose attention cannot, and for a drawer that draws nothing."""
    role = role_of("visualness", source, role)
    label = visual_label(source, label)
    if train is not None:
        own = _opened(train)
        role_of("visualness", own, role)
        visual_label(own, label)
    if lexicon is not None:
        check_attends(model)
        ratings(lexicon)
    if drawer is not None:
        check_drawer(loaded(drawer), draws)


def visualness(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    label: str | None = None,
    train: Source | str | None = None,
    lexicon: str | None = None,
    drawer: Any = None,
    draws: int = 4,
    seed: int = 0,
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `macro_f1`, `macro_precision`, `macro_recall`, `accuracy` at the threshold, `auroc`,
    and the chance values.

    The threshold is the best on `train`, a source or its spec, else the model's own; without either
    only AUROC is returned. `label` is 1 for visual texts: visual or label, or the one named;
    without any, texts whose sample has an image are visual. With a `lexicon`, a table of rated words,
    also `attention_pearson` (see `_words`). With a `drawer`, a model that draws or its spec, also
    `by_drawing` (see `_drawings`), of `draws` drawings of each text that the model judges.

    Also returned: `n` texts, how many are `visual`, the `threshold`, `bad` samples by reason, and
    the protocol. Raises InputError if all texts are of one kind.
    """
    drawer = None if drawer is None else loaded(drawer)
    ready(
        model,
        source,
        role=role,
        label=label,
        train=train,
        lexicon=lexicon,
        drawer=drawer,
        draws=draws,
    )
    role = role_of("visualness", source, role)
    label = visual_label(source, label)
    bad = Counter()
    texts, visual = labelled(source, role=role, label=label, bad=bad)
    steps = Steps(progress, len(texts))
    if train is None:
        threshold = getattr(model, "threshold", None)
        by = "the model's"
    else:
        own = _opened(train)
        known, kinds = labelled(own, role=role, label=label, bad=bad)
        steps.total += len(known)
        threshold = best_threshold(_scores(model, known, batch_size, steps), kinds)
        by = f"best on {data_of(own)} {split_of(own.keys())}"
    found: dict[str, Any] = {**report(_scores(model, texts, batch_size, steps), visual, threshold)}
    options: tuple[str, ...] = (f"label={label}", f"threshold={by}")
    if lexicon is not None:
        attended = word_attention(model, texts, batch_size=batch_size)
        found |= attention_report(attended, ratings(lexicon))
        options += (f"lexicon={Path(lexicon).name}",)
    if drawer is not None:
        steps.total += 2 * len(texts)
        shown = {"draws": draws, "seed": seed}
        found["by_drawing"] = drawn(
            model, drawer, texts, visual, batch_size=batch_size, steps=steps, **shown
        )
        options += (f"drawer={getattr(drawer, 'identity', '')}", f"draws={draws}", f"seed={seed}")
    rule = "mean of both classes; texts above the threshold are visual; ties count half in AUROC"
    protocol = protocol_of("visualness", source, model, field=role, rule=rule, options=options)
    return (
        {"n": len(texts), "visual": int(visual.sum())}
        | found
        | {"bad": dict(bad)}
        | describe(protocol, model)
    )


def report(
    scores: np.ndarray, visual: np.ndarray, threshold: float | None = None
) -> dict[str, float]:
    """Return the measures of scores (N,) of texts, of which `visual` (N,) are visual, and chance.

    Chance is a guess by the classes' shares, and for accuracy the larger class. Without a threshold
    only AUROC is returned.

    >>> report(np.array([0.9, 0.8, 0.3, 0.6]), np.array([1, 1, 0, 0]), 0.5)["macro_recall"]
    0.75
    """
    with lab("visualness"):
        from sklearn.metrics import accuracy_score, precision_recall_fscore_support, roc_auc_score
    given = np.asarray(visual, bool)
    if given.all() or not given.any():
        raise InputError(
            f"{int(given.sum())} of {len(given)} texts are visual; some must be, and some not"
        )
    near = (
        np.round(np.asarray(scores, np.float64) / TIE) * TIE
    )  # values that differ only by rounding are tied
    found = {"auroc": float(roc_auc_score(given, near)), "chance_auroc": 0.5}
    if threshold is None:
        return found
    called = np.asarray(scores) > threshold
    options: Any = {
        "average": "macro",
        "zero_division": 0,
    }  # Any, because the type stubs allow only a string for zero_division
    macro = precision_recall_fscore_support(given, called, **options)[:3]
    names = ("macro_precision", "macro_recall", "macro_f1")
    found = (
        dict(zip(names, map(float, macro), strict=True))
        | found
        | {f"chance_{name}": 0.5 for name in names}
    )
    found |= {"accuracy": float(accuracy_score(given, called))}
    return found | {
        "chance_accuracy": float(max(given.mean(), 1 - given.mean())),
        "threshold": float(threshold),
    }


def visual_label(source: Source, label: str | None) -> str | None:
    """Return the label that marks the visual texts, or None if the images do.

    Raises InputError for one that the source lacks, and if neither exists.
    """
    schema = source.schema()
    labels = [name.removeprefix("labels.") for name in schema if name.startswith("labels.")]
    if label is None:
        usual = [name for name in LABELS if name in labels]
        if not usual and "images.main" not in schema:
            raise InputError(
                f"visualness needs a label that is 1 for visual texts; source {source.name!r} has none called "
                f"{' or '.join(LABELS)}, and no images: name one of its labels with label="
            )
        return usual[0] if usual else None
    if label not in labels:
        raise unknown(f"label of source {source.name!r}", label, labels)
    return label


def _opened(source: Source | str) -> Source:
    from diptych.data.sources import open_source

    return open_source(source) if isinstance(source, str) else source


def labelled(
    source: Source,
    *,
    role: str | None = None,
    label: str | None = None,
    bad: Counter[str] | None = None,
) -> tuple[list[str], np.ndarray]:
    """Return the texts of a source, and which of them are visual (N,) bool; `bad` counts undecided
    samples."""
    role = role_of("visualness", source, role)
    label = visual_label(source, label)

    def reported(sample: Sample) -> list[tuple[str, bool]]:
        visual = is_visual(sample, label)
        return [(text, visual) for text in texts_of(sample, role)]

    pairs = [
        pair
        for mine in read_texts(source, reported, Counter() if bad is None else bad)
        for pair in mine
    ]
    return [text for text, _ in pairs], np.array([visual for _, visual in pairs])


def scores_of(
    model: Any, texts: Sequence[str], *, batch_size: int = 64, progress: Progress | None = None
) -> np.ndarray:
    """Return S (N,) of texts by any embedding model."""
    return _scores(model, texts, batch_size, Steps(progress, len(texts)))


def _scores(model: Any, texts: Sequence[str], batch_size: int, steps: Steps) -> np.ndarray:
    null = getattr(model, "null", None)
    null = noise_image(model.preprocess) if null is None else null
    [anchor] = as_vectors(model.embed_images(null[None], batch_size=1))
    return (1 - embed_texts(model, texts, batch_size=batch_size, steps=steps) @ anchor).numpy()
