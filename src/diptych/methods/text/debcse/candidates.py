"""The candidates of each sentence: changed texts and near sentences, by a teacher's embeddings.

Dimensions: N sentences, K candidates, C changed texts of a sentence, M sentences of the corpus, E
embedding, h negatives.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from diptych.data.batch import Batch
from diptych.data.eda import Kind, Synonyms, changed
from diptych.data.sample import Field, Sample, Schema, Source, Text
from diptych.data.surface import Words, surface_similarity
from diptych.data.views import ArrayView, LabelView
from diptych.data.wrap import Wrapped
from diptych.rng import generator

POSITIVE = "positive"
NEGATIVE = "negative"
"""Roles of the texts that `Drawn` adds; negatives are numbered."""

POSITIVES = "drawn_positive"
NEGATIVES = "drawn_negatives"
SEED = "drawn_seed"
EPOCH = "drawn_epoch"
"""Columns: what was drawn, and from which numbers changed texts are."""

SHARE = 0.2
"""The share of the words that a change repeats, deletes or replaces."""


def meaning(cosine: Any) -> Any:
    """The meaning of a pair in [0, 1] by its cosine."""
    return ((cosine + 1) / 2).clip(0, 1)


class Lines:
    """A source of texts in memory."""

    name = "candidates"

    def __init__(self, texts: Sequence[str]):
        self.texts = texts

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, index: int) -> Sample:
        return Sample(key=str(index), source=self.name, texts=[Text(text=self.texts[index])])

    def keys(self) -> Sequence[str]:
        return [str(index) for index in range(len(self.texts))]

    def schema(self) -> Schema:
        return {"texts.caption": Field(kind="text")}


@dataclass(frozen=True, kw_only=True)
class Own:
    """How candidates are made of a sentence itself: a changed text of each kind, with synonyms from a
    table, and the texts of the role `given`."""

    kinds: Sequence[Kind]
    table: Synonyms
    given: str | None

    def of(self, sample: Sample, role: str, *key: int | str) -> list[str]:
        """Return the sentence of a sample, its changed texts and those given. Changes are drawn by the
        key: seed, epoch and row."""
        text = sample.captions(role)[0]
        made = [
            changed(text, kind, generator(*key, kind), self.table, share=SHARE)  # type: ignore[arg-type]
            for kind in self.kinds
        ]
        more = [] if self.given is None else sample.captions(self.given)
        return [text, *made, *(each for each in more if each.strip())]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of what `of` returns; those that are given have the last one."""
        return ("itself", *self.kinds, "given")


@dataclass(frozen=True)
class Near:
    """The nearest sentences of a corpus: rows (N, K), -1 for none, with their cosines and
    surfaces."""

    rows: np.ndarray
    cosine: np.ndarray
    surface: np.ndarray

    @property
    def meaning(self) -> np.ndarray:
        """The meanings, -inf for none."""
        return np.where(self.rows >= 0, meaning(self.cosine), -np.inf)


def near(
    run: Any,
    source: Source,
    vectors: np.ndarray,
    words: Words,
    corpus: np.ndarray,
    counts: Mapping[str, int],
    most: float,
    weights: Mapping[str, float],
) -> dict[str, Near]:
    """Return the nearest sentences of the rows `corpus` (M,) for each sentence: `counts["positive"]`
    of all others, and `counts["negative"]` of those whose meaning is `most` at most.

    vectors (N, E) are unit vectors. Ranks share the sentences. Memory is O(batch · M).
    """
    bank = torch.from_numpy(vectors[corpus]).to(run.device)
    places = torch.from_numpy(corpus).to(run.device)
    limit = 2 * most - 1  # of the cosine

    def search(batch: Batch) -> dict[str, Tensor]:
        rows = batch.fields["row"]
        cosine = batch.fields["vector"].to(bank.dtype) @ bank.T
        cosine = cosine.masked_fill(places == rows[:, None], -torch.inf)
        found = {}
        for side, count in counts.items():
            kept = cosine if side == POSITIVE else cosine.masked_fill(cosine > limit, -torch.inf)
            values, at = kept.topk(min(count, len(corpus)), 1)
            chosen = torch.where(values > -torch.inf, places[at], -1)
            found[f"{side}_rows"] = chosen
            found[f"{side}_cosine"] = values
            found[f"{side}_surface"] = _surfaces(words, rows, chosen, weights)
        return found

    wrapped = Searched(source, vectors)
    views = (ArrayView(array="vector", shape=vectors.shape[1:]), LabelView(label="row"))
    columns = run.map(search, views, wrapped)
    return {
        side: Near(*(columns[f"{side}_{name}"] for name in ("rows", "cosine", "surface")))
        for side in counts
    }


def _surfaces(words: Words, rows: Tensor, chosen: Tensor, weights: Mapping[str, float]) -> Tensor:
    """The surface similarities of sentences (B,) with the rows `chosen` (B, K); 0 for none."""
    pairs = [
        (int(row), int(other))
        for row, others in zip(rows.tolist(), chosen.tolist(), strict=True)
        for other in others
        if other >= 0
    ]
    found = torch.zeros(chosen.shape, dtype=torch.float64)
    one = [words[a] for a, _ in pairs]
    other = [words[b] for _, b in pairs]
    found[chosen.cpu() >= 0] = torch.from_numpy(surface_similarity(one, other, weights))
    return found.to(chosen.device)


class Searched(Wrapped):
    """A source without its fields, with the row of each sample and its vector."""

    def __init__(self, source: Source, vectors: np.ndarray):
        super().__init__(source)
        self.vectors = vectors

    def __getitem__(self, index: int) -> Sample:
        return Sample(
            key=str(index),
            source=self.name,
            labels={"row": index},
            arrays={"vector": self.vectors[index]},
        )

    def keys(self) -> Sequence[str]:
        return [str(index) for index in range(len(self))]


class Drawn(Wrapped):
    """A source with the texts that its columns name: one of role "positive", and of roles
    "negative0", "negative1", … those of the h rows that were drawn, or the sentence itself where
    there was none.

    `POSITIVES` holds rows, or -1 - n for the n-th candidate that is made of the sentence itself.
    """

    def __init__(self, source: Source, role: str, own: Own):
        super().__init__(source)
        self.role = role
        self.own = own

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        place = int(sample.labels[POSITIVES])
        if place < 0:
            key = draw_key(int(sample.labels[SEED]), int(sample.labels[EPOCH]), index)
            positive = self.own.of(sample, self.role, *key)[-1 - place]
        else:
            positive = self._sentence(place)
        added = [Text(text=positive, role=POSITIVE)]
        for number, row in enumerate(sample.arrays[NEGATIVES]):
            text = self._sentence(int(row) if row >= 0 else index)
            added.append(Text(text=text, role=f"{NEGATIVE}{number}"))
        roles = {text.role for text in added}
        kept = [text for text in sample.texts if text.role not in roles]
        return replace(sample, texts=[*kept, *added])

    def _sentence(self, row: int) -> str:
        return self.source[row].captions(self.role)[0]


def draw_key(seed: int, epoch: int, row: int) -> tuple[int, str, int, int]:
    """The key of the changes of a sentence in an epoch."""
    return seed, "changed", epoch, row
