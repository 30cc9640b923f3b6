"""Visual dependency: how much a source's questions need their images, and the gain of a model over its
base by that.

    dependency   accuracy of the base with images, minus its accuracy without
    gain         accuracy of the model minus that of the base, with images
    blind_gain   the same without images
    needed       gain on the questions that the base answers wrongly without an image
    guessed      gain on those that it answers rightly without one

Of several sources, joined by commas, `by_source` has these of each, and `correlation` is that of the
gains with the dependencies of three sources or more.

Source: Wu et al. 2025 (S-VCO), whose gains grow with the dependency of a benchmark.
"""

from collections import Counter
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np

from diptych.data.sample import Source
from diptych.data.sources import Concat
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites import answers as answering
from diptych.methods.store import load

card = {
    "title": "Visual dependency of questions, and the gain over a base by it",
    "needs": ["images.main", "texts.question", "texts.answer"],
    "abilities": [],  # depends on `by`
}

By = Literal["generate", "log_prob"]


def ready(model: Any, source: Source, *, base: Any = None, by: By = "generate") -> None:
    """Raise InputError without a base, and for a model that cannot answer in the way `by`, with images
    and without."""
    if base is None:
        raise InputError(
            "a gain is over a model; name the one before the training with --base (base=)"
        )
    answering.ready(model, source, by=by, blind=True)
    answering.ready(_loaded(base), source, by=by, blind=True)


def dependency(
    model: Any,
    source: Source,
    *,
    base: Any = None,
    by: By = "generate",
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the measures above; `n` questions, `bad` samples by reason, and the protocol.

    `base` is a model or its spec, `by` is as in the suite answers.
    """
    base = _loaded(base)
    ready(model, source, base=base, by=by)
    parts = source.sources if isinstance(source, Concat) else [source]
    steps = Steps(progress, 2 * sum(map(len, parts)))
    bad: Counter[str] = Counter()
    how: dict[str, Any] = {"by": by, "exact": exact, "batch_size": batch_size, "steps": steps}
    rights = [
        np.stack([_right(base, part, bad, **how), _right(model, part, Counter(), **how)])
        for part in parts
    ]
    whole = np.concatenate(rights, 2)
    found: dict[str, Any] = report(whole)
    if len(parts) > 1:
        table = {part.name: report(each) for part, each in zip(parts, rights, strict=True)}
        found["by_source"] = table
        found |= correlated(table)
    protocol = protocol_of(
        "dependency",
        source,
        model,
        exact=exact,
        field="answer",
        rule="lower case, no punctuation, no articles, numbers as digits; ties lose",
        options=(f"by={by}", f"base={base.identity}"),
    )
    return {"n": whole.shape[2]} | found | {"bad": dict(bad)} | describe(protocol, model)


def _loaded(base: Any) -> Any:
    return load(base) if isinstance(base, str) else base


def _right(
    model: Any,
    source: Source,
    bad: Counter[str],
    *,
    by: By,
    exact: bool,
    batch_size: int,
    steps: Steps,
) -> np.ndarray:
    """Return which questions are answered rightly with their image and without, (2, n) bool."""

    def facts(sample: Any) -> list[answering.Question]:
        return answering.questions(sample, by == "log_prob")

    found = list(
        answering.about_images(
            model, source, facts, bad, by=by, exact=exact, batch_size=batch_size, steps=steps
        )
    )
    seen = [answering.correct(given, question) for question, given in found]
    asked = [question for question, _ in found]
    return np.stack([np.array(seen), answering.without_images(model, asked, by, batch_size)])


def report(right: np.ndarray) -> dict[str, float]:
    """Return the measures of right answers (2, 2, n): of base and model, with images and without.

    >>> base, model = [[1, 1, 0, 0], [1, 0, 0, 0]], [[1, 1, 1, 0], [0, 0, 0, 0]]
    >>> found = report(np.array([base, model], bool))
    >>> found["dependency"], found["gain"], found["blind_gain"], round(found["needed"], 2), found["guessed"]
    (0.25, 0.25, -0.25, 0.33, 0.0)
    """
    (seen, blind), (model_seen, model_blind) = right.astype(float)
    gains = model_seen - seen
    found = {
        "dependency": float(seen.mean() - blind.mean()),
        "gain": float(gains.mean()),
        "blind_gain": float(model_blind.mean() - blind.mean()),
    }
    for name, which in (("needed", blind == 0), ("guessed", blind == 1)):
        if which.any():
            found[name] = float(gains[which].mean())
    return found


def correlated(table: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return the correlation of gains with dependencies, of three sources or more that differ in both."""
    values = np.array([[each["dependency"], each["gain"]] for each in table.values()])
    if len(values) < 3 or bool((np.ptp(values, 0) == 0).any()):
        return {}
    return {"correlation": float(np.corrcoef(values.T)[0, 1])}
