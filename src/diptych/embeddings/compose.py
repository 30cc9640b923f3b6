"""Search a source for images that match a reference image and an instruction, by a model that has
`compose`."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from diptych.data.images import FileImage, file_of
from diptych.data.sample import BadSample, Sample, Source
from diptych.errors import InputError
from diptych.evaluation.embed import Progress, Steps, main_image, read_images
from diptych.evaluation.suites.composed import content_of
from diptych.methods.abilities import require


@dataclass(frozen=True, kw_only=True, slots=True)
class Meant:
    """One result: `rank` from 1, its score, its key, and its path if it is a file."""

    rank: int
    score: float
    key: str
    path: str


def compose(
    model: Any,
    source: Source,
    reference: str | Path,
    instruction: str,
    *,
    k: int = 10,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
) -> tuple[list[Meant], Counter[str]]:
    """Return the `k` best images of a source, and the number of unreadable images by reason.

    The reference itself is never returned, wherever it is. Raises InputError for a model that
    cannot compose and for a reference that is no image.
    """
    require(model, "compose", "a search by image and instruction")
    try:
        itself = content_of(FileImage(str(reference)))
    except BadSample as error:
        raise InputError(
            f"{reference} cannot be read ({error}); name an image to start from"
        ) from None
    model.compose(
        reference, instruction, exact=exact
    )  # raises its errors before the images are read
    bad: Counter[str] = Counter()

    def reported(sample: Sample) -> tuple[str, str, bool]:
        [image] = main_image(sample)
        return sample.key, file_of(image), content_of(image) == itself

    facts: list[tuple[str, str]] = []
    parts: list[torch.Tensor] = []
    steps = Steps(progress, len(source))
    for pixels, those in read_images(
        model, source, reported, bad, exact=exact, batch_size=batch_size, steps=steps
    ):
        others = [at for at, (_, _, same) in enumerate(those) if not same]
        parts.append(model.index(pixels, batch_size=batch_size)[others])
        facts += [those[at][:2] for at in others]
    found = model.search(torch.cat(parts), reference, instruction, k, exact=exact)
    return [
        Meant(rank=rank, score=score, key=facts[at][0], path=facts[at][1])
        for rank, (at, score) in enumerate(found, 1)
    ], bad
