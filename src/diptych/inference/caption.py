"""Captioning: a text for every image of a source, by a model that has `generate`."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from diptych.data.sample import Source
from diptych.evaluation.embed import Progress, Steps, clip_or_image, place_of, read_images
from diptych.methods.abilities import require


@dataclass(frozen=True)
class Written:
    """An image by its key, its path if it is a file, and the generated text."""

    key: str
    path: str
    text: str


def write_about(
    model: Any,
    source: Source,
    prompt: str | None = None,
    *,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> tuple[list[Written], Counter[str]]:
    """Return a text for every clip or image `main`, in the source's order, and the number of
    unreadable images by reason.

    With a prompt, the model answers it for each image. `settings` are those of the model's
    `generate`. Raises InputError if no image can be read.
    """
    require(model, "generate", "writing about images")
    found: list[Written] = []
    bad: Counter[str] = Counter()
    steps = Steps(progress, len(source))
    for pixels, facts in read_images(
        model,
        source,
        place_of,
        bad,
        images=clip_or_image,
        exact=exact,
        batch_size=batch_size,
        steps=steps,
    ):
        prompts = None if prompt is None else [prompt] * len(pixels)
        texts = model.generate(pixels, prompts, batch_size=batch_size, **settings)
        found += [Written(key, path, text) for (key, path), text in zip(facts, texts, strict=True)]
    return found, bad
