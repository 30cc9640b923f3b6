"""Captioning: a text for every image of a source, by a model that has `generate`."""

from collections import Counter
from dataclasses import dataclass
from typing import Any

from diptych.data.sample import BadSample, Sample, Source, lost_samples
from diptych.evaluation.embed import Progress, Steps, place_of, read_images, seen_by
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
    role: str | None = None,
    batch_size: int = 64,
    exact: bool = False,
    progress: Progress | None = None,
    **settings: Any,
) -> tuple[list[Written], Counter[str]]:
    """Return a text for every clip or image `main`, in the source's order, and the number of
    unreadable images by reason.

    With a prompt, the model answers it for each image; with `role`, the first text of this role of
    each sample. A model that reads several images together has those of a sample. `settings` are those
    of the model's `generate`. Raises InputError if no image can be read.
    """
    require(model, "generate", "writing about images")

    def facts(sample: Sample) -> tuple[str, str, str | None]:
        """Key, path and prompt."""
        if role is None:
            return *place_of(sample), prompt
        texts = sample.captions(role)
        if not texts:
            raise BadSample("no-text", f"{sample.key} has no text of role {role!r}")
        return *place_of(sample), texts[0]

    found: list[Written] = []
    bad = lost_samples(source)
    steps = Steps(progress, len(source))
    for pixels, kept in read_images(
        model,
        source,
        facts,
        bad,
        images=seen_by(model),
        exact=exact,
        batch_size=batch_size,
        steps=steps,
    ):
        prompts = None if prompt is role is None else [asked for _, _, asked in kept]
        texts = model.generate(pixels, prompts, batch_size=batch_size, **settings)
        found += [
            Written(key, path, text) for (key, path, _), text in zip(kept, texts, strict=True)
        ]
    return found, bad
