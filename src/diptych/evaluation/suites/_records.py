"""Records, images with a text each, and how similar they are: by a model, or by their texts alone.

Dimensions: N records, A and B records that are compared, E embedding.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from diptych.data.sample import Sample, Source
from diptych.errors import InputError, unknown
from diptych.evaluation.embed import Steps, embed_images, embed_texts
from diptych.evaluation.suites.retrieval import texts_of
from diptych.metrics import lab, similarities
from diptych.towers.dual import pooled

NO_ENTITY = ""
_GRAM = 3


@dataclass(frozen=True)
class Records:
    """N records: unit vectors of their images and texts (N, E), keys, texts, and the names of their
    entities, `NO_ENTITY` where that is not known."""

    image: Tensor
    text: Tensor
    keys: np.ndarray
    texts: np.ndarray
    entities: np.ndarray

    def __len__(self) -> int:
        return len(self.keys)

    def at(self, rows: Any) -> "Records":
        """The records of some rows."""
        parts = (self.keys, self.texts, self.entities)
        return Records(self.image[rows], self.text[rows], *(part[rows] for part in parts))


Similarity = Callable[[Records, Records], np.ndarray]
"""`similarity(a, b)`: how similar records are (A, B), at most 1."""


def read_records(
    model: Any,
    source: Source,
    role: str,
    label: str | None,
    bad: Counter[str],
    *,
    exact: bool,
    batch_size: int,
    steps: Steps,
) -> Records:
    """Return the records of a source, each with its first text of a role; a text or image that
    cannot be used is counted in `bad`."""
    field = source.schema().get(f"labels.{label}")
    names = () if field is None else field.classes

    def facts(sample: Sample) -> tuple[str, str, str]:
        return sample.key, texts_of(sample, role)[0], entity_of(sample, label, names)

    found = embed_images(model, source, facts, exact=exact, batch_size=batch_size, steps=steps)
    bad.update(found.bad)
    keys, texts, entities = (np.array(part) for part in zip(*found.facts, strict=True))
    text = embed_texts(model, texts.tolist(), batch_size=batch_size, steps=steps)
    return Records(found.vectors, text, keys, texts, entities)


def entity_of(sample: Sample, label: str | None, names: Sequence[str]) -> str:
    """The entity of a sample: the name of its label's value, the value itself, or its text of that
    role."""
    if label and label not in sample.labels:
        return next(iter(sample.captions(label)), NO_ENTITY)
    value = sample.labels.get(label, -1) if label else -1
    if value != value or value < 0:
        return NO_ENTITY
    return names[int(value)] if names else str(value)


def label_of_entities(source: Source, label: str | None) -> str:
    """Return the label of entities: the given one, or entity, or the first that is an integer. A given
    one, and entity, may be a role of texts, as a column of words is.

    Raises InputError if there is none.
    """
    fields = source.schema().items()
    there = [
        name.removeprefix("labels.")
        for name, field in fields
        if name.startswith("labels.") and field.kind == "int"
    ]
    words = [name.removeprefix("texts.") for name, _ in fields if name.startswith("texts.")]
    named = [*there, *(word for word in words if word not in (*there, "caption"))]
    if label is not None:
        if label not in named:
            raise unknown(f"label of source {source.name!r}", label, named)
        return label
    if "entity" in named:
        return "entity"
    if not there:
        raise InputError(
            f"{source.name} has no label that tells which records are of one entity; name data with one, or a column "
            "of words with --label"
        )
    return there[0]


def by_model(weight: float) -> Similarity:
    """The cosine of the records' embeddings, with this weight of the image."""

    def similarity(a: Records, b: Records) -> np.ndarray:
        one, other = (pooled(each.image, each.text, weight) for each in (a, b))
        return similarities(one, other).numpy()

    return similarity


def by_edits(a: Records, b: Records) -> np.ndarray:
    """1 - the edits between two texts (Levenshtein 1966), over the length of the longer one.

    Raises InputError without rapidfuzz.
    """
    try:
        from rapidfuzz.distance import Levenshtein
        from rapidfuzz.process import cdist
    except ImportError:
        raise InputError(
            "the edits between texts need rapidfuzz; install it with: pip install 'diptych[text]'"
        ) from None
    one, other = ([text.lower() for text in each.texts] for each in (a, b))
    return cdist(one, other, scorer=Levenshtein.normalized_similarity, dtype=np.float32)


def by_grams(a: Records, b: Records) -> np.ndarray:
    """The Jaccard similarity of the sets of three letters in a row, with the spaces around words."""
    with lab("the similarity of letters in a row"):
        from sklearn.feature_extraction.text import CountVectorizer
    count = CountVectorizer(analyzer="char_wb", ngram_range=(_GRAM, _GRAM), binary=True)
    both: Any = count.fit_transform([*a.texts, *b.texts])
    both = both.astype(np.float32)
    one = both[: len(a)]
    other = both[len(a) :]
    shared = np.asarray((one @ other.T).todense())
    either = np.asarray(one.sum(1)) + np.asarray(other.sum(1)).T - shared
    return shared / np.maximum(either, 1)


STRINGS: dict[str, Similarity] = {"levenshtein": by_edits, "ngram": by_grams}
"""Similarities of the texts alone."""


def chunks(
    records: Records, similarity: Similarity, others: Records, size: int = 512
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the rows of some records and their similarities to all others, a part at a time."""
    for start in range(0, len(records), size):
        part = records.at(slice(start, start + size))
        yield np.arange(start, start + len(part)), similarity(part, others)
