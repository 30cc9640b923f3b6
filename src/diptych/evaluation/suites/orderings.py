"""Orderings of log-probabilities of responses to two images that differ by an edit.

    attend     log p(y | its image) > log p(y | no image)
    reject     log p(y | no image) > log p(y | the other image)
    contrast   log p(y | its image) > log p(y | the other image)
    paired     contrast for both responses of a pair
    prefer     log p(y | image) > log p(y' | image), y' the other image's response

Each is the share of the responses of both images for which it holds; ties count as wrong. A pair is a
sample and an edit with an image, which answer one question differently; with a role, texts of it that
differ are compared. The model's own log-probabilities are compared, and no reference.

Source: Wu et al. 2025 (S-VCO), who observe that correct answers are often likeliest without an image.
"""

from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, as_vectors, images_with_edits, read_images
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites.answers import normal_answer, questions, twins
from diptych.methods.abilities import require
from diptych.metrics import TIE

card = {
    "title": "Orderings of log-probabilities with the right image, none and another",
    "needs": ["images.main", "edits"],
    "abilities": ["preprocess", "log_prob"],
}

_CONDITIONS = 6


@dataclass(frozen=True)
class Pair:
    """The number of the edit's image among those of a sample, 0 its own, what is asked ("" for
    nothing), and the responses to both."""

    image: int
    question: str
    own: str
    other: str


def ready(model: Any, source: Source, *, role: str | None = None) -> None:
    """Raise InputError for a model that gives no probabilities without an image, and a source without
    the texts."""
    require(model, "log_prob", "orderings")
    if not getattr(model, "asked_alone", False):
        raise InputError(
            f"{getattr(model, 'name', 'this model')} reads an image with every text; name a model whose image is a "
            "prefix of a language model"
        )
    schema = source.schema()
    for name in ("question", "answer") if role is None else (role,):
        if f"texts.{name}" not in schema:
            raise InputError(
                f"{source.name} has no texts.{name}; name the role of responses with --role, of "
                f"{', '.join(each for each in schema if each.startswith('texts.')) or 'none'}"
            )


def orderings(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the shares above; `n` pairs, `bad` samples by reason, and the protocol.

    `role` is that of responses which answer no question. Raises InputError as `ready` does, and if
    there is no pair.
    """
    ready(model, source, role=role)
    steps = Steps(progress, len(source))
    bad: Counter[str] = Counter()
    values = [np.zeros((0, _CONDITIONS))]
    for pixels, kept in read_images(
        model,
        source,
        partial(pairs, role=role),
        bad,
        images=images_with_edits,
        exact=exact,
        batch_size=batch_size,
        steps=steps,
    ):
        first = 0
        rows = []
        for count, found in kept:
            rows += [(first, first + pair.image, pair) for pair in found]
            first += count
        values.append(_log_probs(model, pixels, rows, batch_size))
    protocol = protocol_of(
        "orderings",
        source,
        model,
        exact=exact,
        field=role or "answer",
        rule="sums over tokens; of several answers the first; ties lose",
    )
    found = np.concatenate(values)
    return {"n": len(found)} | report(found) | {"bad": dict(bad)} | describe(protocol, model)


def pairs(sample: Sample, role: str | None = None) -> tuple[int, list[Pair]]:
    """Return the number of images of a sample and its edits, and its pairs.

    Raises BadSample("no-pair") if there is none.
    """
    edits = [edit for edit in sample.edits if "main" in edit.images]
    found = []
    mine = questions(sample) if role is None else []
    for at, edit in enumerate(edits, 1):
        if role is None:
            own = {each.text: each.answers[0] for each in mine}
            found += [
                Pair(at, each.text, own[each.text], each.answers[0]) for each in twins(edit, mine)
            ]
            continue
        said = [each.captions(role)[:1] for each in (sample, edit)]
        if all(said) and normal_answer(said[0][0]) != normal_answer(said[1][0]):
            found.append(Pair(at, "", said[0][0], said[1][0]))
    if not found:
        raise BadSample("no-pair", f"{sample.key} has no edit with another response")
    return 1 + len(edits), found


def _log_probs(
    model: Any, pixels: Any, rows: list[tuple[int, int, Pair]], batch_size: int
) -> np.ndarray:
    """Return the log-probabilities (n, 6) of pairs: own and other response behind the sample's image,
    then behind the edit's, then behind none."""
    own = [pair.own for *_, pair in rows]
    other = [pair.other for *_, pair in rows]
    asked = [pair.question for *_, pair in rows]
    prompts = asked if any(asked) else None
    columns = []
    for seen in (0, 1, None):
        images = None if seen is None else pixels[[row[seen] for row in rows]]
        for texts in (own, other):
            found = model.log_prob(images, texts, prompts, batch_size=batch_size)
            columns.append(as_vectors(found))
    return torch.stack(columns, 1).double().numpy()


def report(values: np.ndarray) -> dict[str, float]:
    """Return the shares of log-probabilities (n, 6), in the order of `_log_probs`.

    >>> found = report(np.array([[-1.0, -9.0, -5.0, -2.0, -3.0, -1.0]]))
    >>> found["attend"], found["reject"], found["contrast"], found["paired"], found["prefer"]
    (0.5, 1.0, 1.0, 1.0, 1.0)
    """
    least = TIE * np.abs(values).max(1, initial=0)

    def above(better: int, worse: int) -> np.ndarray:
        return values[:, better] > values[:, worse] + least

    contrast = np.stack([above(0, 2), above(3, 1)])
    found = {
        "attend": np.stack([above(0, 4), above(3, 5)]),
        "reject": np.stack([above(4, 2), above(5, 1)]),
        "contrast": contrast,
        "prefer": np.stack([above(0, 1), above(3, 2)]),
    }
    shares = {name: float(each.mean()) for name, each in found.items()}
    shares["paired"] = float(contrast.all(0).mean())
    chance = dict.fromkeys((f"chance_{name}" for name in found), 0.5)
    return shares | chance | {"chance_paired": 0.25}
