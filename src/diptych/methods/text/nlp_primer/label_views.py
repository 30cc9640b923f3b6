"""Views of texts with labels: those that a text has, words of it as labels, and labels that it does
not have.

Dimensions: B samples, G positive and b negative labels of a text, M names, L ids.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from diptych.data.compact import hash64
from diptych.data.eda import STOP_WORDS
from diptych.data.sample import BadSample, Sample, Source
from diptych.data.templates import filled, written
from diptych.data.tokenizers import Tokenizer
from diptych.data.views import TextView
from diptych.errors import InputError, unknown

MARKS = "#.,;:!?()[]{}<>'\"“”‘’«»…/\\|*_~`=+-–—"
LAST = 2**63 - 1
"""Stands behind all names of a sorted row."""


def content_words(text: str) -> list[str]:
    """The different words of a text as they are first written, without marks around them and without
    stop words (`data.eda`).

    >>> content_words("The red cat, and the Red hat!")
    ['red', 'cat', 'hat']
    """
    found: dict[str, str] = {}
    for part in text.split():
        word = part.strip(MARKS)
        if any(map(str.isalnum, word)) and word.lower() not in STOP_WORDS:
            found.setdefault(name_of(word), word)
    return list(found.values())


def name_of(label: str) -> str:
    """The form in which labels and words are the same: lower case, with spaces for underscores.

    >>> name_of("Red_Apple") == name_of(" red apple")
    True
    """
    return " ".join(written(label).lower().split())


def number_of(name: str) -> int:
    """A number of 63 bits that stands for a name of `name_of`."""
    return hash64(name.encode("utf-8", "replace")) >> 1


def class_names(source: Source, fields: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The class names of those fields that are labels. Raises InputError for a label without names.

    Fields that the source lacks are left out: that they are missing is reported before the first
    step.
    """
    schema = source.schema()
    found = {}
    for name in fields:
        if not name.startswith("labels.") or name not in schema:
            continue
        if not schema[name].classes:
            raise InputError(
                f"{name} of {source.name} has no class names, and its words are needed; name another "
                "label, or texts, such as texts.label"
            )
        found[name] = schema[name].classes
    return found


def labels_in(
    sample: Sample, fields: Iterable[str], classes: Mapping[str, tuple[str, ...]]
) -> dict[str, str]:
    """The labels of a sample by their names (`name_of`), as they are written.

    A field is a role of texts, `texts.ROLE`, or a label with class names, `labels.NAME`.
    """
    found: dict[str, str] = {}
    for each in fields:
        kind, _, name = each.partition(".")
        given = sample.captions(name)
        if kind == "labels":
            number = int(sample.labels.get(name, -1))
            known = classes.get(each, ())
            given = [known[number]] if 0 <= number < len(known) else []
        for label in given:
            found.setdefault(name_of(label), written(label))
    return found


@dataclass(frozen=True)
class Vocabulary:
    """Words and labels as they are first written, and in how many texts each is a positive label;
    `labels` is the most labels of a sample."""

    names: tuple[str, ...]
    counts: tuple[int, ...]
    labels: int

    @cached_property
    def _until(self) -> np.ndarray:
        return np.cumsum(self.counts)

    def draw(self, count: int, rng: np.random.Generator) -> list[str]:
        """`count` names, each with a probability in proportion to its count.

        >>> Vocabulary(("a", "b"), (1, 0), 1).draw(2, np.random.default_rng(0))
        ['a', 'a']
        """
        at = np.searchsorted(self._until, rng.integers(self._until[-1], size=count), side="right")
        return [self.names[place] for place in at.tolist()]


@dataclass(frozen=True, kw_only=True)
class LabelsView(TextView):
    """A text of `TextView`, and labels of it: texts.labels (B, K, L), without special ids.

    The first G of the K labels are positives: up to `real` labels of the fields `fields`, then up to
    `pseudo` words of the text. They are random ones in training, else the first. Words are those
    that fit into the tokenizer's context, without stop words. `classes` are the class names of
    labels.

    With `vocabulary`, `negatives` of its names follow. Without it other texts are to give the
    negatives: fields.names (B, G) are the numbers of the positives (`number_of`), fields.known (B, M)
    those of all positives of the text, sorted, with `LAST` behind them.

    fields.there (B, K) says which labels there are; negatives that are positives of the text are
    not. Raises BadSample("no-label") for a text without a positive.
    """

    fields: tuple[str, ...] = ()
    classes: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    real: int = 4
    pseudo: int = 4
    negatives: int = 16
    vocabulary: Vocabulary | None = None
    labels: int = 1
    """The most labels of a sample."""

    @property
    def reads(self) -> tuple[str, ...]:
        return (*super().reads, *self.fields)

    @property
    def gives(self) -> tuple[str, ...]:
        given = (f"texts.{self.name}", "texts.labels", "fields.there")
        return given if self.vocabulary else (*given, "fields.names", "fields.known")

    @property
    def positives(self) -> int:
        """G, the most positive labels that are drawn for a text."""
        return self.pseudo + self.real * bool(self.fields)

    @property
    def most(self) -> int:
        """M, the most positive labels that a text can have."""
        return self.labels * bool(self.fields) + self.tokenizer.room * bool(self.pseudo)

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        (text,) = self.drawn(sample, rng, progress)
        real, words = self.all_positives(sample, text)
        known = {**words, **real}
        free = [word for name, word in words.items() if name not in real]
        drawn = [
            *some(list(real.values()), self.real, rng, progress),
            *some(free, self.pseudo, rng, progress),
        ]
        if not drawn:
            raise BadSample("no-label", f"{sample.key} has no label and no word that can be one")
        found: dict[str, Any] = {f"texts.{self.name}": self.tokenizer.encode([text])}
        rows: list[str | None] = [*drawn, *[None] * (self.positives - len(drawn))]
        if self.vocabulary is not None:
            others = self.vocabulary.draw(self.negatives, rng)
            rows += [None if name_of(each) in known else each for each in others]
        else:
            numbers = [number_of(name_of(each)) for each in drawn]
            found["fields.names"] = _filled(numbers, self.positives, -1)
            found["fields.known"] = _filled(sorted(map(number_of, known)), self.most, LAST)
        found["texts.labels"] = [
            [] if each is None else label_ids(each, self.tokenizer) for each in rows
        ]
        found["fields.there"] = torch.tensor([each is not None for each in rows])
        return found

    def all_positives(self, sample: Sample, text: str) -> tuple[dict[str, str], dict[str, str]]:
        """All labels of a sample, and all words of its text that can be labels, by name."""
        real = labels_in(sample, self.fields, self.classes)
        return real, {name_of(word): word for word in self.words(sample, text)}

    def words(self, sample: Sample, text: str) -> list[str]:
        """The words of a text that are its labels."""
        if not self.pseudo:
            return []
        return content_words(within_context(text, self.tokenizer))

    def counted(self, source: Source) -> Vocabulary:
        """Count the positives of the first text of each sample; damaged samples are left out.

        Raises InputError if there are none.
        """
        rng = np.random.default_rng(0)  # not used: the first texts are taken
        counts: Counter[str] = Counter()
        written_as: dict[str, str] = {}
        labels = 1
        for index in range(len(source)):
            try:
                sample = source[index]
                (text,) = self.drawn(sample, rng, None)
            except BadSample:
                continue
            real, words = self.all_positives(sample, text)
            own = {**words, **real}
            counts.update(own.keys())
            written_as = {**own, **written_as}
            labels = max(labels, len(real))
        if not counts:
            raise InputError(
                f"the texts of role {self.role!r} of {source.name} have no label and no word that can be one"
            )
        names = tuple(written_as[name] for name in counts)
        return Vocabulary(names, tuple(counts.values()), labels)


def label_ids(label: str, tokenizer: Tokenizer) -> list[int]:
    """The ids of a label's words, without special ids, as many as the context holds."""
    return tokenizer.ids(written(label))[: tokenizer.room]


def within_context(text: str, tokenizer: Tokenizer) -> str:
    """The words of a text whose ids fit into the context.

    >>> from diptych.data.tokenizers import build
    >>> within_context("ab cd ef", build("chars:context=7"))
    'ab cd'
    """
    if not tokenizer.lost(text):
        return text
    words = text.split()
    low = 0
    high = len(words)
    while low < high:  # the ids of a prefix grow with it
        middle = (low + high + 1) // 2
        if tokenizer.lost(" ".join(words[:middle])):
            high = middle - 1
        else:
            low = middle
    return " ".join(words[:low])


def some(
    values: list[str], count: int, rng: np.random.Generator, progress: float | None
) -> list[str]:
    """At most `count` of the values: random ones in training, else the first."""
    if progress is None or len(values) <= count:
        return values[:count]
    return [values[at] for at in rng.choice(len(values), count, replace=False)]


def _filled(numbers: list[int], count: int, filler: int) -> torch.Tensor:
    assert len(numbers) <= count, "a text has more labels than were counted"
    return torch.tensor([*numbers, *[filler] * (count - len(numbers))], dtype=torch.int64)


@dataclass(frozen=True, kw_only=True)
class DescriptionView:
    """The description of a sample's label as texts.NAME (B, 1, L), and its number as fields.label.

    `field` is a label with class names, `labels.NAME`, whose names are put into `template`, or a role
    of texts, `texts.ROLE`, of which one is drawn in training. Samples with equal descriptions have
    equal numbers. Raises BadSample("no-label") for a sample without the label.
    """

    tokenizer: Tokenizer
    name: str = "description"
    field: str = "labels.label"
    template: str = "{}"
    classes: Mapping[str, tuple[str, ...]]

    @property
    def reads(self) -> tuple[str, ...]:
        return (self.field,)

    @property
    def gives(self) -> tuple[str, ...]:
        return f"texts.{self.name}", "fields.label"

    def __call__(
        self, sample: Sample, rng: np.random.Generator, progress: float | None
    ) -> dict[str, Any]:
        found = list(labels_in(sample, (self.field,), self.classes).values())
        if not found:
            raise BadSample("no-label", f"{sample.key} has no {self.field}")
        (label,) = some(found, 1, rng, progress)
        text = filled(self.template, label)
        return {
            f"texts.{self.name}": self.tokenizer.encode([text]),
            "fields.label": number_of(name_of(label)),
        }


def checked_fields(given: str) -> tuple[str, ...]:
    """The fields of labels in an option, joined by `+`. Raises InputError for other fields.

    >>> checked_fields("texts.label+labels.object")
    ('texts.label', 'labels.object')
    """
    found = tuple(part for part in given.split("+") if part)
    for each in found:
        kind, _, name = each.partition(".")
        if kind not in ("texts", "labels") or not name:
            raise unknown("field of labels", each, ("texts.ROLE", "labels.NAME"))
    return found
