"""Named numbers, such as risks, of every image of a source, by models that have `predict`."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch

from diptych.data.sample import BadSample, EncodedImage, Sample, Source, lost_samples
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, read_images
from diptych.methods.abilities import require


@dataclass(frozen=True)
class Predicted:
    """A sample by its key, and its numbers by name."""

    key: str
    numbers: dict[str, float]


def predict(
    models: Sequence[Any],
    source: Source,
    *,
    roles: Sequence[str] = (),
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> tuple[list[Predicted], Counter[str]]:
    """Return the numbers of every sample, and the number of unreadable samples by reason.

    `roles` are the roles of the images that the models read, one for each, "main" by default. Of
    several models each number is the mean over those whose image a sample has, all on one scale
    (late fusion). Raises InputError for a model without predictions, for models that predict
    different numbers, and if no sample can be read.
    """
    roles = list(roles) or ["main"] * len(models)
    if len(roles) != len(models):
        raise InputError(
            f"{len(models)} models and {len(roles)} roles are given; name one role for each model"
        )
    steps = Steps(progress, len(source) * len(models))
    found: dict[str, list[dict[str, float]]] = {}
    bad = lost_samples(source)
    names: set[str] | None = None
    for model, role in zip(models, roles, strict=True):
        require(model, "predict", "predicting")
        for pixels, keys in read_images(
            model,
            source,
            lambda sample: sample.key,
            bad,
            images=partial(_of_role, role=role),
            exact=exact,
            batch_size=batch_size,
            steps=steps,
        ):
            numbers = model.predict(pixels, batch_size=batch_size)
            if names not in (None, set(numbers)):
                raise InputError(
                    f"{model.name} predicts {', '.join(numbers)}, another model {', '.join(sorted(names or ()))}; "
                    "name models that predict the same"
                )
            names = set(numbers)
            for row, key in enumerate(keys):
                own = {name: float(values[row]) for name, values in numbers.items()}
                found.setdefault(key, []).append(own)
    keys = source.keys()
    return [Predicted(key, _means(found[key])) for key in keys if key in found], bad


def _of_role(sample: Sample, role: str) -> Sequence[EncodedImage]:
    """The image of a role. Raises BadSample if there is none."""
    if role not in sample.images:
        raise BadSample("no-image", f"{sample.key} has no image {role!r}")
    return (sample.images[role],)


def _means(given: Sequence[dict[str, float]]) -> dict[str, float]:
    """The mean of each number."""
    return {
        name: float(torch.tensor([each[name] for each in given], dtype=torch.float64).mean())
        for name in given[0]
    }
