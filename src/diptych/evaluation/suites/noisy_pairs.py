"""Noisy pairs: whether flagged pairs (wrong captions, noise) are detected by a low score of image
and text.

    suspicion = - <image, text>,  or minus the score of `model.match`,  or `model.noise_probability`

AUROC is the probability that a flagged pair is more suspicious than another one (ties count half),
AP the mean precision over the flagged pairs in order of suspicion. A flag is a label of the sample
(0: none), or an attribute of the text (absent or empty: none). If flags have kinds, each kind is
also compared with the unflagged pairs.

Other scores, such as the noise probabilities that a method wrote of its training pairs, can be
passed to `report` directly.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
import torch

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import (
    Progress,
    Steps,
    Texts,
    as_vectors,
    embed_texts,
    label_of,
    read_images,
)
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites.retrieval import role_of
from diptych.methods.abilities import require
from diptych.metrics import TIE, lab

card = {
    "title": "Flags: wrong pairs told by how badly image and text fit",
    "needs": ["images.main", "texts"],
    "abilities": [],  # those of `_ABILITIES`, depending on `by`
}

By = Literal["embed", "match", "noise"]
_ABILITIES: Mapping[str, tuple[str, ...]] = {
    "embed": ("embed_images", "embed_texts"),
    "match": ("preprocess", "match"),
    "noise": ("noise_probability", "index", "embed_texts"),
}


def ready(model: Any, source: Source, *, role: str | None = None, by: By = "embed") -> None:
    """Raise InputError for a role and abilities that are missing."""
    role_of("noisy_pairs", source, role)
    if by not in _ABILITIES:
        raise unknown("way to score", by, _ABILITIES)
    for ability in _ABILITIES[by]:
        require(model, ability, "noisy_pairs")


def noisy_pairs(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    flag: str = "noise",
    by: By = "embed",
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return `auroc` and `average_precision` of flagged pairs, `n` pairs, how many are `flagged`,
    and `by_kind`.

    `role` is the role of the texts; `flag` is the name of the flag: a label of the source, or else
    an attribute of the texts. `by` is embed, the cosine, match, or noise. Also returned: the chance
    values, `bad` samples by reason, and the protocol. Raises InputError if no pair is flagged, or
    all are.
    """
    ready(model, source, role=role, by=by)
    role = role_of("noisy_pairs", source, role)
    texts = Texts()
    bad = Counter()
    field = source.schema().get(f"labels.{flag}")

    def pairs(sample: Sample) -> list[tuple[int, str]]:
        """Return the number and flag of each text of a sample."""
        found = [text for text in sample.texts if role in (text.role, "*") and text.text.strip()]
        if not found:
            raise BadSample("no-caption", f"{sample.key} has no text of role {role!r}")
        if field is None:
            return [(texts.add(text.text), _kind(text.attrs.get(flag, ""))) for text in found]
        value = int(label_of(sample, flag))
        kind = (
            "" if value == 0 else field.classes[value] if value < len(field.classes) else str(value)
        )
        return [(texts.add(text.text), kind) for text in found]

    steps = Steps(progress, len(source))
    vectors = []
    kinds = []
    numbers = []
    scores = []
    for pixels, kept in read_images(
        model, source, pairs, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        owner = np.repeat(np.arange(len(kept)), [len(mine) for mine in kept])
        number, kind = zip(*(pair for mine in kept for pair in mine), strict=True)
        kinds += kind
        if by != "match":
            embed = model.embed_images if by == "embed" else model.index
            vectors.append(as_vectors(embed(pixels, batch_size=batch_size))[owner])
            numbers += number
        else:
            asked = [texts.written[at] for at in number]
            scores.append(as_vectors(model.match(pixels[owner], asked, batch_size=batch_size)))
    if by != "match":
        steps.total += len(texts)
        of_texts = embed_texts(model, texts.written, batch_size=batch_size, steps=steps)[numbers]
        of_images = torch.cat(vectors)
        if by == "embed":
            scores = [(of_images * of_texts).sum(1)]
        else:
            scores = [-model.noise_probability(of_images, of_texts, batch_size=batch_size)]
    rule = "minus the score of image and text; ties count half"
    options = (f"flag={flag}", f"by={by}")
    protocol = protocol_of(
        "noisy_pairs", source, model, exact=exact, field=role, rule=rule, options=options
    )
    found = by_kind(
        -torch.cat(scores).double().numpy(), kinds, f"flag {flag!r} of source {source.name!r}"
    )
    return found | {"bad": dict(bad)} | describe(protocol, model)


def report(scores: np.ndarray, flags: np.ndarray) -> dict[str, float]:
    """Return `auroc` and `average_precision` of scores (N,) that should be higher where flags (N,)
    are set, and chance.

    Raises InputError if no flag is set, or all are.

    >>> report(np.array([0.9, 0.8, 0.3]), np.array([1, 0, 0]))["auroc"]
    1.0
    """
    with lab("AUROC"):
        from sklearn.metrics import average_precision_score, roc_auc_score
    given = np.asarray(flags, bool)
    if given.all() or not given.any():
        raise InputError(
            f"{int(given.sum())} of {len(given)} flags are set; some must be, and some not"
        )
    return {
        "auroc": float(roc_auc_score(given, scores)),
        "average_precision": float(average_precision_score(given, scores)),
        "chance_auroc": 0.5,
        "chance_average_precision": float(given.mean()),
    }


def by_kind(scores: np.ndarray, kinds: list[str], where: str) -> dict[str, Any]:
    """Return `report` of all flagged pairs, and of those of each kind against the unflagged; "" is
    no flag."""
    named = np.array(kinds)
    if not 0 < (named != "").sum() < len(named):
        raise InputError(
            f"{int((named != '').sum())} of {len(named)} pairs have {where}; some must, and some not"
        )
    near = np.round(scores / TIE) * TIE  # values that differ only by rounding are tied
    rows = {}
    for kind in sorted(set(kinds) - {""}):
        mine = (named == "") | (named == kind)
        found = report(near[mine], named[mine] == kind)
        rows[kind] = {"n": int((named == kind).sum()), "auroc": found["auroc"]}
    counts = {"n": len(named), "flagged": int((named != "").sum())}
    return {**counts, **report(near, named != ""), "by_kind": rows}


def _kind(value: Any) -> str:
    """Return a flag as text: "" for none, "flagged" for one without a kind."""
    return value if isinstance(value, str) else "flagged" if value else ""
