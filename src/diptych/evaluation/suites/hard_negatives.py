"""Hard negatives among texts: a paraphrase must be nearer to its text than to a text with one wrong
word.

    hit = [ <anchor, right> > <anchor, wrong> ]          by log_prob:  hit = [ log p(right) > log p(wrong) ]

The anchor is another wording of the same sample: a text of role `anchor`, or another one of `role`.
The wrong text comes from an edit, or has one of the roles `negatives`; it is compared with the text
of `role` that shares most words with it. No image is read. By log_prob there is no anchor: the more
probable text is chosen, which measures how far a set of negatives can be solved without images.
Ties count as wrong; chance is 1/2.

Sources: Hsieh et al. 2023 (SugarCrepe, whose captions and negatives are such texts); Gao et al.
2021 (SimCSE, hard negatives of sentences).
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from torch import Tensor

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Progress, Steps, Texts, as_vectors, embed_texts, read_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites.composition import closest
from diptych.evaluation.suites.retrieval import role_of, texts_of
from diptych.methods.abilities import require
from diptych.metrics import TIE, Array

card = {
    "title": "Hard negatives among texts",
    "needs": ["texts"],
    "abilities": [],  # embed_texts or log_prob, depending on `by`
}

By = Literal["embed", "log_prob"]

NEGATIVES = ("negative", "negated", "swapped", "contradiction")
"""The roles of wrong texts if none is given."""


@dataclass(frozen=True)
class Trial:
    """One wrong text: the numbers of its anchors, of the right text and of itself, and its kind. By
    log_prob there are no anchors."""

    anchors: tuple[int, ...]
    right: int
    wrong: int
    kind: str


def ready(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    anchor: str | None = None,
    negatives: Sequence[str] = (),
    by: By = "embed",
) -> None:
    """Raise InputError for roles and abilities that are missing, and for a source without edits or
    negatives."""
    if by not in ("embed", "log_prob"):
        raise unknown("way to score", by, ("embed", "log_prob"))
    require(model, "embed_texts" if by == "embed" else "log_prob", "hard_negatives")
    for name in (role, anchor, *negatives):
        role_of("hard_negatives", source, name)
    if "edits" not in source.schema() and not _negatives(source, negatives):
        raise InputError(
            f"hard_negatives needs edits or texts that are wrong; source {source.name!r} gives "
            f"{', '.join(source.schema())}: name their role with negatives="
        )


def hard_negatives(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    anchor: str | None = None,
    negatives: Sequence[str] = (),
    by: By = "embed",
    batch_size: int = 64,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `two_way`, the share of wrong texts that are further from the anchors than the right
    ones, and `by_kind`.

    - `role` is the role of the right texts (caption, or the first).
    - `anchor` is the role of the anchors (paraphrase if there is one, else `role`).
    - `negatives` are the roles of the wrong texts, by default negative, negated, swapped and
      contradiction.
    - `by` is embed, or log_prob, the probability that the model assigns to a text.

    A wrong text with several anchors counts by the share of anchors to which the right text is
    nearer. Also returned: `margin`, the mean difference of the cosines (or log-probabilities), `n`
    wrong texts, `bad` samples by reason, and the protocol.
    """
    ready(model, source, role=role, anchor=anchor, negatives=negatives, by=by)
    role = role_of("hard_negatives", source, role)
    negatives = _negatives(source, negatives)
    anchor = anchor or ("paraphrase" if "texts.paraphrase" in source.schema() else role)
    texts = Texts()
    bad = Counter()
    anchor = anchor if by == "embed" else None
    found = read_texts(source, lambda sample: _trials(sample, texts, role, anchor, negatives), bad)
    trials = [trial for mine in found for trial in mine]
    steps = Steps(progress, len(texts))
    if by == "embed":
        vectors = embed_texts(model, texts.written, batch_size=batch_size, steps=steps)
        margins = [_margins(vectors, trial) for trial in trials]
    else:
        values = as_vectors(model.log_prob(texts.written, batch_size=batch_size))
        margins = [values[[trial.right]] - values[[trial.wrong]] for trial in trials]
        steps.add(len(texts))
    protocol = protocol_of(
        "hard_negatives",
        source,
        model,
        field=role,
        rule="anchors count by their share; ties lose",
        options=(f"by={by}", f"anchor={anchor}", f"negatives={','.join(negatives) or 'edits'}"),
    )
    return (
        report(margins, [trial.kind for trial in trials])
        | {"bad": dict(bad)}
        | describe(protocol, model)
    )


def report(margins: Sequence[Array], kinds: Sequence[str]) -> dict[str, Any]:
    """Return `two_way`, `margin` and `by_kind` of wrong texts, from the differences (A,) by which
    the right text scores higher at each anchor.

    >>> report([np.array([0.5, -0.5]), np.array([0.1])], ["swap", "add"])["two_way"]
    0.75
    """
    lists = [np.asarray(each, np.float64) for each in margins]
    hits = np.array([(each > TIE).mean() for each in lists])
    means = np.array([each.mean() for each in lists])
    named = np.array(kinds)
    by_kind = {
        kind: {
            "n": int((named == kind).sum()),
            "two_way": float(hits[named == kind].mean()),
            "margin": float(means[named == kind].mean()),
        }
        for kind in dict.fromkeys(kinds)
    }
    return {
        "n": len(named),
        "two_way": float(hits.mean()),
        "chance_two_way": 0.5,
        "margin": float(means.mean()),
        "by_kind": by_kind,
    }


def _margins(vectors: Tensor, trial: Trial) -> Tensor:
    """Return by how much the right text is nearer to each anchor than the wrong one (A,)."""
    anchors = vectors[list(trial.anchors)]
    return anchors @ vectors[trial.right] - anchors @ vectors[trial.wrong]


def _trials(
    sample: Sample, texts: Texts, role: str, anchor: str | None, negatives: Sequence[str]
) -> list[Trial]:
    own = texts_of(sample, role)
    anchors = (
        list(dict.fromkeys(texts.add(text) for text in texts_of(sample, anchor))) if anchor else []
    )
    wrong = [
        (edit.captions(role)[0], edit.kind or "edit")
        for edit in sample.edits
        if edit.captions(role)
    ]
    wrong += [(text, name) for name in negatives for text in sample.captions(name)]
    if not wrong:
        raise BadSample(
            "no-negative", f"{sample.key} has no edit and no text of role {', '.join(negatives)}"
        )
    trials = []
    for text, kind in wrong:
        right = texts.add(own[closest(text, own)])
        number = texts.add(text)
        others = tuple(each for each in anchors if each not in (right, number))
        if right != number and (others or anchor is None):
            trials.append(Trial(others, right, number, kind))
    if not trials:
        reason = "same-text" if anchor is None else "no-anchor"
        raise BadSample(
            reason,
            f"{sample.key} has no wrong text that differs, or no other wording of role {anchor!r}",
        )
    return trials


def _negatives(source: Source, negatives: Sequence[str]) -> list[str]:
    return list(negatives) or [name for name in NEGATIVES if f"texts.{name}" in source.schema()]
