"""The concepts of all images of a source, as `diptych data rewrite` writes them.

Dimensions: N samples of the source, I of the index, C concepts, E embedding, H x W pixels.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.clusters import ready
from diptych.data.prefetch import ahead
from diptych.data.sample import BadSample, Source
from diptych.data.sources import rewritten
from diptych.data.templates import filled
from diptych.errors import InputError, some
from diptych.methods.abilities import require
from diptych.methods.dense.cocu.curation import (
    NEIGHBOURS,
    PROMPT,
    Concepts,
    Gallery,
    curate,
    no_concepts,
)

Progress = Callable[[int, int], None]


@dataclass(kw_only=True)
class Embedded:
    """Unit vectors (N', E) of the images of a source that can be read, which samples have one (N,)
    bool, and the names that each one's captions mention (N')."""

    vectors: np.ndarray
    there: np.ndarray
    mentions: list[list[int]]


@dataclass(kw_only=True)
class Summary:
    """How many samples were rewritten: all, those with concepts, the concepts of all, and those that
    cannot be read, by reason."""

    samples: int = 0
    rewritten: int = 0
    concepts: int = 0
    bad: Counter[str]


class Rewriting:
    """The concepts of each sample of a source, as the names of a gallery.

    They are those that captions of role `role` mention at the `neighbours` images of `index` (by
    default the source itself) nearest to the sample's image by a model of images and texts
    (`curation.curate`). A sample whose image cannot be read has none, and one of the index is left
    out. Raises InputError for a model that lacks an ability, and if no caption mentions a name.

    >>> import diptych
    >>> from diptych.data.sources import open_source
    >>> scenes = open_source("scenes:count=12:number=2:described=1")
    >>> found = Rewriting(scenes, diptych.load("tiny"), ["cat", "car", "tree", "house", "star"])
    >>> len(list(found.concepts())) == found.summary.samples == 12
    True
    """

    def __init__(
        self,
        source: Source,
        model: Any,
        gallery: Sequence[str],
        *,
        index: Source | None = None,
        neighbours: int = NEIGHBOURS,
        role: str = "caption",
        seed: int = 0,
        batch_size: int = 64,
        progress: Progress | None = None,
    ):
        for ability in ("embed_images", "embed_texts"):
            require(model, ability, "diptych data rewrite", model.name)
        ready(1, 1, "diptych data rewrite")
        self.gallery = Gallery(gallery)
        self.neighbours = neighbours
        self.seed = seed
        self.summary = Summary(bad=Counter())
        total = 2 * len(source) + (0 if index is None else len(index))
        self._told: Progress = progress or (lambda done, total: None)
        self._total = total
        self._done = 0
        how = {"role": role, "batch_size": batch_size}
        self.source = self._embedded(source, model, **how)
        self.index = self.source
        if index is not None:
            self.index = self._embedded(index, model, **how)
        if not any(self.index.mentions):
            named = source if index is None else index
            raise InputError(
                f"no text of role {role!r} of {named.name} mentions a name of the gallery, such as "
                f"{some(self.gallery.names)}; name other concepts with --gallery, or the role with --role"
            )
        prompts = [filled(PROMPT, name) for name in self.gallery.names]
        self.vectors = _numbers(model.embed_texts(prompts))

    def concepts(self) -> Iterator[Concepts]:
        """Yield the concepts of each sample, and count them in `summary`."""
        found = curate(
            self.source.vectors,
            self.index.vectors,
            self.index.mentions,
            self.vectors,
            neighbours=self.neighbours,
            seed=self.seed,
        )
        for there in self.source.there.tolist():
            own = next(found) if there else no_concepts()
            self.summary.samples += 1
            self.summary.rewritten += len(own.numbers) > 0
            self.summary.concepts += len(own.numbers)
            self._advance(1)
            yield own

    def named(self) -> Iterator[rewritten.Found]:
        """Yield the scores of each sample's concepts by name, and the names in each cluster."""
        names = self.gallery.names
        for own in self.concepts():
            said = [names[number] for number in own.numbers]
            clusters: dict[int, list[str]] = {}
            for name, cluster in zip(said, own.clusters.tolist(), strict=True):
                clusters.setdefault(cluster, []).append(name)
            yield dict(zip(said, own.scores.tolist(), strict=True)), clusters.values()

    def _embedded(self, source: Source, model: Any, *, role: str, batch_size: int) -> Embedded:
        """Embed the images of a source, and find the names in its captions."""

        def read(index: int) -> tuple[Tensor, list[int]]:
            sample = source[index]
            if "main" not in sample.images:
                raise BadSample("no-image", sample.key)
            mentioned = {
                number for text in sample.captions(role) for number in self.gallery.mentioned(text)
            }
            return model.preprocess.read(sample.images["main"]), sorted(mentioned)

        there = np.zeros(len(source), bool)
        vectors = []
        mentions = []
        at = 0
        for batch in ahead(read, range(len(source)), batch_size):
            pixels = []
            for made in batch:
                if isinstance(made, BadSample):
                    self.summary.bad[made.reason] += 1
                else:
                    there[at] = True
                    pixels.append(made[0])
                    mentions.append(made[1])
                at += 1
            if pixels:
                found = model.embed_images(torch.stack(pixels), batch_size=batch_size)
                vectors.append(_numbers(found))
            self._advance(len(batch))
        if not vectors:
            raise InputError(
                f"no image of {source.name} can be read; `diptych check` tells the reasons"
            )
        return Embedded(vectors=np.concatenate(vectors), there=there, mentions=mentions)

    def _advance(self, count: int) -> None:
        self._done += count
        self._told(self._done, self._total)


def rewrite(
    source: Source, spec: str, model: Any, gallery: Sequence[str], out: Path, **options: Any
) -> Summary:
    """Write the concepts of a source, opened from `spec`, for `rewritten:FILE`; options are those of
    `Rewriting`."""
    found = Rewriting(source, model, gallery, **options)
    rewritten.write(out, spec, source, model.name, found.named())
    return found.summary


def _numbers(vectors: Any) -> np.ndarray:
    return torch.as_tensor(vectors).float().cpu().numpy()
