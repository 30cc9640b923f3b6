"""Concepts: nouns of the training captions, and those that a frozen model sees in an image.

Dimensions: N images, Q concepts of the vocabulary, m concepts of an image, E embedding.
"""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from diptych.data.eda import STOP_WORDS
from diptych.data.pairs import Paired
from diptych.data.sample import BadSample, Sample, Source
from diptych.data.sources import open_source
from diptych.data.tokenizers import Tokenizer
from diptych.errors import InputError

CONCEPTS = "concepts"
"""The column with the concepts (m,) of an image, and the name of the text of a batch that names them."""
_WORD = re.compile(r"[^\W\d_]{2,}")


def vocabulary(
    texts: Iterable[str], *, min_count: int, max_concepts: int, nouns: frozenset[str] | None = None
) -> tuple[str, ...]:
    """The words that occur `min_count` times or more, without stop words, the `max_concepts` most
    frequent of them first; of `nouns` alone where these are given.

    >>> vocabulary(["A red cat.", "the cat", "A dog"], min_count=1, max_concepts=2, nouns=frozenset(["cat", "dog"]))
    ('cat', 'dog')
    """
    counts = Counter(
        word
        for text in texts
        for word in _WORD.findall(text.lower())
        if word not in STOP_WORDS and (nouns is None or word in nouns)
    )
    often = [(-count, word) for word, count in counts.items() if count >= min_count]
    return tuple(word for _, word in sorted(often)[:max_concepts])


def nouns_of(spec: str | None) -> frozenset[str] | None:
    """The texts of a source in lower case, those of role word where it has them, such as
    wordnet:pos=noun. Raises InputError for one without texts."""
    if spec is None:
        return None
    source = open_source(spec)
    role = "word" if "texts.word" in source.schema() else "*"
    found = frozenset(text.strip().lower() for text in _texts(source, role))
    if not found:
        raise InputError(f"{spec} has no text, and nouns are read from it; name another source")
    return found


def texts_of(source: Source, role: str) -> Iterable[str]:
    """The texts of a role, without reading images; damaged samples are left out."""
    return source.table if isinstance(source, Paired) else _texts(source, role)


def _texts(source: Source, role: str) -> Iterator[str]:
    for at in range(len(source)):
        try:
            yield from source[at].captions(role)
        except BadSample:
            continue


def named(numbers: Sequence[int], names: Sequence[str]) -> str:
    """The text that names concepts.

    >>> named([1, 0], ("cat", "dog"))
    'dog, cat'
    """
    return ", ".join(names[number] for number in numbers)


@dataclass(frozen=True, kw_only=True)
class ConceptView:
    """The text that names the concepts (m,) of a sample's column `concepts`, texts.concepts (B, 1, L)."""

    tokenizer: Tokenizer
    names: Sequence[str]
    reads = (f"arrays.{CONCEPTS}",)
    gives = (f"texts.{CONCEPTS}",)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        text = named(sample.arrays[CONCEPTS].astype(int).tolist(), self.names)
        return {self.gives[0]: self.tokenizer.encode([text])}
