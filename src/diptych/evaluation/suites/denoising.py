"""Denoising: how well a model predicts the noise in images, given their texts.

    error        mean_i || eps(x_i with noise, t, y_i) - e ||²,   per number of an image
    explained    1 - error: the share of the noise that is predicted                        chance 0
    other_error  the same with the text of another sample: what the texts tell is the difference

Times and noises are the same for all pairs (`models.diffusion`). The text of a sample is its first
of the role; the next different text of the source is the other one.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import torch

from diptych.data.sample import Sample, Source
from diptych.evaluation.embed import Progress, Steps, as_vectors, read_images, read_texts
from diptych.evaluation.protocol import describe, protocol_of
from diptych.evaluation.suites.retrieval import role_of, texts_of

card = {
    "title": "Denoising: the noise in images, given their texts",
    "needs": ["images.main", "texts"],
    "abilities": ["noise_error"],
}


def ready(model: Any, source: Source, *, role: str | None = None) -> None:
    """Raise InputError for a role that the source lacks."""
    role_of("denoising", source, role)


def denoising(
    model: Any,
    source: Source,
    *,
    role: str | None = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Return the measures above for the texts of `role`, `n` pairs, `bad` samples by reason, and the
    protocol."""
    role = role_of("denoising", source, role)
    bad: Counter[str] = Counter()
    steps = Steps(progress, len(source))

    def text_of(sample: Sample) -> str:
        return texts_of(sample, role)[0]

    other = others(read_texts(source, text_of, Counter()))
    own: list[torch.Tensor] = []
    wrong: list[torch.Tensor] = []
    for pixels, texts in read_images(
        model, source, text_of, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        for errors, words in ((own, texts), (wrong, [other[text] for text in texts])):
            errors.append(as_vectors(model.noise_error(pixels, words, batch_size=batch_size)))
    protocol = protocol_of(
        "denoising", source, model, exact=exact, field=role, rule="first text of each sample"
    )
    error, other_error = (float(torch.cat(each).double().mean()) for each in (own, wrong))
    return {
        "explained": 1 - error,
        "chance_explained": 0.0,
        "error": error,
        "other_error": other_error,
        "n": sum(map(len, own)),
        "bad": dict(bad),
    } | describe(protocol, model)


def others(texts: Sequence[str]) -> dict[str, str]:
    """Return for each text the next different one, in a circle; the text itself if there is no other.

    >>> others(["a", "a", "b"])
    {'a': 'b', 'b': 'a'}
    """
    different = list(dict.fromkeys(texts))
    return dict(zip(different, [*different[1:], different[0]], strict=True))
