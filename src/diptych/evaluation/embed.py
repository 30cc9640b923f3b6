"""Embed the images and texts of a source for an evaluation: lazily, in batches, counting damaged
samples."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import normalize

from diptych.data.clips import Pages, stacked
from diptych.data.images import file_of
from diptych.data.prefetch import ahead
from diptych.data.sample import BadSample, EncodedImage, Sample, Source, image_of
from diptych.data.views import sentences
from diptych.errors import InputError

Progress = Callable[[int, int], None]


class Steps:
    """Counts the work done and reports it as `progress(done, total)`."""

    def __init__(self, progress: Progress | None, total: int):
        self.progress = progress
        self.total = total
        self.done = 0

    def add(self, count: int) -> None:
        self.done += count
        if self.progress:
            self.progress(self.done, self.total)


@dataclass(frozen=True)
class Embedded:
    """Vectors (n, E) or (n, K, E) of the samples that could be read, their `facts`, and the reasons for
    others."""

    vectors: Tensor
    facts: list[Any]
    bad: Counter[str]


def main_image(sample: Sample) -> Sequence[EncodedImage]:
    """Return the image of role "main" alone. Raises BadSample if there is none."""
    if "main" not in sample.images:
        raise BadSample("no-image", f"{sample.key} has no image 'main'")
    return (sample.images["main"],)


def clip_or_image(sample: Sample) -> Sequence[EncodedImage]:
    """Return the clip of a sample that has one, else its main image. Raises BadSample if there is
    neither."""
    return (sample.images["frames"],) if "frames" in sample.images else main_image(sample)


def clips_of(source: Source) -> tuple[str, ...]:
    """Return the option of a protocol that says that clips were embedded: ("clips",) or nothing."""
    return ("clips",) if "images.frames" in source.schema() else ()


def place_of(sample: Sample) -> tuple[str, str]:
    """Return a sample's key, and the path of its image if it is a file.

    >>> from diptych.data.images import FileImage
    >>> place_of(Sample(key="a", source="", images={"main": FileImage("photos/a.jpg")}))
    ('a', 'photos/a.jpg')
    """
    [image] = main_image(sample)
    return sample.key, file_of(image)


def first_images(sample: Sample, count: int) -> Sequence[EncodedImage]:
    """Return the first `count` images of a sample as one, which is read like a clip; 1 is the main
    image. Raises BadSample if it has fewer."""
    if count == 1:
        return main_image(sample)
    roles = [image_of(page) for page in range(count)]
    for role in roles:
        if role not in sample.images:
            raise BadSample("no-image", f"{sample.key} has no image {role!r}")
    return (Pages(tuple(sample.images[role] for role in roles)),)


def seen_by(model: Any) -> Callable[[Sample], Sequence[EncodedImage]]:
    """Return what a model that writes sees of a sample: the clip or the main image, or all of the
    first images if it reads several together (`Model.images_read`)."""
    count = getattr(model, "images_read", 1)
    return clip_or_image if count == 1 else partial(first_images, count=count)


def images_with_edits(sample: Sample, count: int = 1) -> Sequence[EncodedImage]:
    """Return the first `count` images as one, and those of the sample's edits that have some."""
    edits = [edit for edit in sample.edits if "main" in edit.images]
    return [image for each in (sample, *edits) for image in first_images(each, count)]


class Reader:
    """What reads images by a preprocessing, in place of a model."""

    def __init__(self, preprocess: Any):
        self.preprocess = preprocess


def read_images(
    model: Any,
    source: Source,
    facts: Callable[[Sample], Any],
    bad: Counter[str],
    *,
    images: Callable[[Sample], Sequence[EncodedImage]] = main_image,
    exact: bool,
    batch_size: int,
    steps: Steps,
) -> Iterator[tuple[Tensor, list[Any]]]:
    """Yield the pixels (n, 3, H, W), of clips (n, V, 3, H, W), of up to `batch_size` samples at a
    time, with `facts(sample)` of each, in order.

    `images(sample)` returns the images of a sample to read, any number of them, which are
    concatenated. `facts(sample)` is called if all of them could be read. Either may raise
    BadSample, which is counted in `bad`. `exact` is that of `Model.embed_images`. At most two
    batches of images are in memory, already at the model's size. Raises InputError if no sample can
    be used.
    """

    def read(index: int) -> tuple[Sample, list[Tensor]]:
        sample = source[index]
        return sample, [model.preprocess.read(image, exact=exact) for image in images(sample)]

    used = False
    for batch in ahead(read, range(len(source)), batch_size):
        pixels: list[Tensor] = []
        kept: list[Any] = []
        for made in batch:
            try:
                if isinstance(made, BadSample):
                    raise made
                kept.append(facts(made[0]))
                pixels += made[1]
            except BadSample as error:
                bad[error.reason] += 1
        if kept:
            used = True
            yield stacked(pixels), kept
        steps.add(len(batch))
    if not used:
        raise nothing_left(source, bad)


def embed_images(
    model: Any,
    source: Source,
    facts: Callable[[Sample], Any],
    *,
    images: Callable[[Sample], Sequence[EncodedImage]] = clip_or_image,
    exact: bool,
    batch_size: int,
    steps: Steps,
) -> Embedded:
    """Embed the clip or the image of every sample (or those that `images` returns, in order); see
    `read_images`. A model without `embed_images` gives the several vectors (n, K, E) of `index`."""
    embed = model.embed_images if hasattr(model, "embed_images") else model.index
    bad: Counter[str] = Counter()
    vectors: list[Tensor] = []
    kept: list[Any] = []
    for pixels, of_batch in read_images(
        model, source, facts, bad, images=images, exact=exact, batch_size=batch_size, steps=steps
    ):
        kept += of_batch
        vectors += [
            as_vectors(embed(part, batch_size=batch_size)) for part in pixels.split(batch_size)
        ]
    return Embedded(torch.cat(vectors), kept, bad)


def read_texts(source: Source, facts: Callable[[Sample], Any], bad: Counter[str]) -> list[Any]:
    """Return `facts(sample)` of every sample, without reading images; as in `read_images`, damage
    is counted in `bad`.

    Raises InputError if no sample can be used.
    """
    kept = []
    for index in range(len(source)):
        try:
            kept.append(facts(source[index]))
        except BadSample as error:
            bad[error.reason] += 1
    if not kept:
        raise nothing_left(source, bad)
    return kept


def embed_texts(model: Any, texts: Sequence[str], *, batch_size: int, steps: Steps) -> Tensor:
    """Embed texts (n, E) batch by batch."""
    vectors = []
    for part in _batches(texts, batch_size):
        vectors.append(as_vectors(model.embed_texts(list(part))))
        steps.add(len(part))
    return torch.cat(vectors)


def embed_long(
    model: Any, texts: Sequence[str], *, batch_size: int, steps: Steps, best: bool = False
) -> Tensor:
    """Embed long texts (n, E), each as the normalised mean of its sentences' vectors
    (`data.views.sentences`).

    With `best` return all of them (n, K, E); those of texts with fewer sentences are repeated.
    """
    parts = [sentences(text) or [text] for text in texts]
    sizes = [len(said) for said in parts]
    steps.total += sum(sizes) - len(texts)
    vectors = embed_texts(
        model, [part for said in parts for part in said], batch_size=batch_size, steps=steps
    )
    rows = vectors.split(sizes)
    if not best:
        return normalize(torch.stack([each.sum(0) for each in rows]), dim=1)
    return torch.stack([each[torch.arange(max(sizes)) % len(each)] for each in rows])


class Texts:
    """Different texts in order of appearance, each embedded once. Texts that differ only in case
    and outer spaces are equal, unless `exact`.

    >>> texts = Texts()
    >>> [texts.add(text) for text in ("a dog", "a cat", " A dog ")]
    [0, 1, 0]
    """

    def __init__(self, exact: bool = False) -> None:
        self.exact = exact
        self.written: list[str] = []
        self._number: dict[str, int] = {}

    def add(self, text: str) -> int:
        """Return the number of a text, a new one for a new text."""
        form = text if self.exact else normal_form(text)
        if form not in self._number:
            self._number[form] = len(self.written)
            self.written.append(text)
        return self._number[form]

    def __len__(self) -> int:
        return len(self.written)


def normal_form(text: str) -> str:
    """Return the form in which equal texts are identical: lower case, without outer spaces.

    >>> normal_form(" A dog. ") == normal_form("a dog.")
    True
    """
    return text.strip().lower()


def label_of(sample: Sample, label: str) -> int | float:
    """Return a label of a sample. Raises BadSample if it is missing: -1 for integers, NaN for
    floats."""
    value = sample.labels.get(label, -1)
    if value != value or (isinstance(value, int) and value < 0):
        raise BadSample("no-label", f"{sample.key} has no {label}")
    return value


def as_vectors(vectors: Any) -> Tensor:
    """Return a model's output as float32 on the CPU."""
    return torch.as_tensor(vectors).detach().float().cpu()


def nothing_left(source: Source, bad: Counter[str]) -> InputError:
    """Return the error for a source all of whose samples were left out."""
    reasons = ", ".join(f"{count} {reason}" for reason, count in bad.most_common())
    return InputError(
        f"none of the {len(source)} samples of {source.name!r} can be used ({reasons})"
    )


def _batches(items: Any, size: int) -> Iterator[Any]:
    return (items[start : start + size] for start in range(0, len(items), size))
