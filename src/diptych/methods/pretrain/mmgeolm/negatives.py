"""Wrong captions of a figure: by rules, by retrieval, and at random.

Two captions name the same figure where only the wording, or the order in which a polygon's corners
are read, differs; such a caption is never a negative. Captions that name no figure, such as those of
photos, are the same where their words are.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import permutations
from typing import Any

import numpy as np

from diptych.data.sample import BadSample, Field, Sample, Schema, Source, Text
from diptych.data.worlds.diagrams import ring
from diptych.data.wrap import Wrapped
from diptych.errors import InputError
from diptych.metrics import lab
from diptych.rng import generator
from diptych.spec import several

KINDS = ("edits", "rule", "retrieval", "random")
SHAPES: tuple[tuple[str, ...], ...] = (
    ("equilateral triangle", "isosceles triangle", "right triangle", "scalene triangle"),
    ("square", "rectangle", "rhombus", "parallelogram", "trapezoid", "kite"),
    ("pentagon", "hexagon", "octagon"),
    ("semicircle", "sector"),
)
"""Shapes that a rule exchanges for another one of their group."""
RELATIONS: tuple[tuple[str, ...], ...] = (
    ("similar", "congruent"),
    ("parallel", "equal"),
    ("median", "altitude", "bisector"),
    ("inscribed in", "circumscribed about"),
    ("tangent", "secant"),
    ("radius", "diameter"),
    ("acute", "obtuse"),
    ("complementary", "supplementary"),
    ("interior", "exterior"),
)
"""Relations that a rule exchanges for another one of their group; gross errors are in no group."""

_NAME = re.compile(r"(?<![A-Za-z])(?P<angle>(?:angle |∠ ?))?(?P<name>[A-Z]{2,8})(?![A-Za-z])")
_TILE = 256  # captions that are compared with all others at once
_NUMBER = re.compile(r"(?<![\w.])\d+(?:\.\d+)?(?![\w])")
# what makes numbers those of a figure where it has no name, not those of two dogs
_DRAWN = re.compile(r"[=∠°△⊥∥]|angle|circle|polygon|degree|length|line|point", re.IGNORECASE)
_WORDS = re.compile(
    "|".join(
        sorted((word for group in (*SHAPES, *RELATIONS) for word in group), key=len, reverse=True)
    )
)


def rule_negatives(caption: str, count: int, rng: np.random.Generator) -> list[str]:
    """Return at most `count` captions that state another fact: another shape, other letters, another
    number or another relation of the same group, in turn, spread over the caption.

    A name becomes one of the same letters that is another figure (no order of a triangle's or a
    segment's letters is), a segment one between two other letters of the caption. So two letters
    change at least, and none is new.

    >>> found = rule_negatives("In square ABCD, AC = 8", 4, np.random.default_rng(0))
    >>> len(found), all(same_figure(each, found[0]) for each in found[1:])
    (4, False)
    """
    rules = (_other_words(SHAPES), _other_names, _other_numbers, _other_words(RELATIONS))
    waiting = [iter(_shuffled(rng, list(rule(caption, rng)))) for rule in rules]
    seen = {content(caption)}
    found: list[str] = []
    while waiting and len(found) < count:
        edits = waiting.pop(0)
        for edit in edits:
            if content(edit) not in seen:
                seen.add(content(edit))
                found.append(edit)
                waiting.append(edits)
                break
    return found


def content(caption: str) -> tuple[str, ...]:
    """Return what a caption says of a figure, whatever its wording: names by the first of their
    orders, numbers, shapes and relations, sorted. Of a caption without a figure, return its words.

    >>> content("In square CDAB, BA = 5") == content("AB = 5 in square ABCD")
    True
    >>> content("2 dogs run.")
    ('2', 'dogs', 'run')
    """
    names = [_figure(match["name"], bool(match["angle"])) for match in _NAME.finditer(caption)]
    words = [match.group() for match in _WORDS.finditer(caption)]
    numbers = _NUMBER.findall(caption)
    if names or words or (numbers and _DRAWN.search(caption)):
        return tuple(sorted([*names, *numbers, *words]))
    return tuple(_terms(caption))


def same_figure(one: str, other: str) -> bool:
    """Whether two captions say the same of a figure."""
    return content(one) == content(other)


def _figure(name: str, angle: bool) -> str:
    """The first of the names of an angle (read from either side), a polygon or a segment."""
    return min(name, name[::-1]) if angle and len(name) == 3 else ring(name)


def _shuffled(rng: np.random.Generator, options: list[str]) -> list[str]:
    return [options[int(at)] for at in rng.permutation(len(options))]


Rule = Callable[[str, np.random.Generator], Iterator[str]]


def _other_words(groups: Sequence[Sequence[str]]) -> Rule:
    """The rule that exchanges a word for another one of its group."""
    group = {word: words for words in groups for word in words}

    def rule(caption: str, rng: np.random.Generator) -> Iterator[str]:
        for match in _WORDS.finditer(caption):
            for word in group.get(match.group(), ()):
                if word != match.group():
                    yield caption[: match.start()] + word + caption[match.end() :]

    return rule


def _other_names(caption: str, rng: np.random.Generator) -> Iterator[str]:
    """Each name in another order, or for a segment of two other letters of the caption."""
    letters = sorted({letter for match in _NAME.finditer(caption) for letter in match["name"]})
    for match in _NAME.finditer(caption):
        name = match["name"]
        others = ["".join(order) for order in permutations(name)] if len(name) < 7 else []
        if len(name) == 2:
            pairs = [a + b for at, a in enumerate(letters) for b in letters[at + 1 :]]
            others = [pair for pair in pairs if not set(pair) & set(name)]
        start, end = match.span("name")
        for other in others:
            if _figure(other, bool(match["angle"])) != _figure(name, bool(match["angle"])):
                yield caption[:start] + other + caption[end:]


def _other_numbers(caption: str, rng: np.random.Generator) -> Iterator[str]:
    """Each number a little larger or smaller, with as many decimals."""
    for match in _NUMBER.finditer(caption):
        old = match.group()
        decimals = len(old.partition(".")[2])
        for change in (-3, -2, -1, 1, 2, 3):
            new = float(old) + change
            if new > 0:
                yield f"{caption[: match.start()]}{new:.{decimals}f}{caption[match.end() :]}"


def neighbours(captions: Sequence[str], count: int) -> list[list[int]]:
    """Return for each caption the `count` others with the largest cosine of their TF-IDF vectors
    that say something else, the most similar first.

    Names are compared by the first of their orders. Needs scikit-learn.

    >>> neighbours(["square ABCD", "square BCDA", "square ACBD", "a circle"], 1)[0]
    [2]
    """
    with lab("retrieval of captions"):
        from sklearn.feature_extraction.text import TfidfVectorizer
    said: dict[tuple[str, ...], int] = {}
    facts = np.array([said.setdefault(content(caption), len(said)) for caption in captions])
    analyzer: Any = _terms  # which may be a function, whatever its annotation says
    table = TfidfVectorizer(analyzer=analyzer).fit_transform(captions)
    found = []
    for start in range(0, len(captions), _TILE):
        rows = slice(start, start + _TILE)
        scores = (table[rows] @ table.T).toarray()  # type: ignore[index]
        scores[facts[rows, None] == facts] = -np.inf
        best = np.argsort(-scores, axis=1, kind="stable")[:, :count]
        for row, order in zip(scores, best, strict=True):
            found.append([int(other) for other in order if row[other] > -np.inf])
    return found


def _terms(caption: str) -> list[str]:
    """The words of a caption in lower case, and its names by the first of their orders."""
    words = re.findall(r"[^\W\d]+|\d+(?:\.\d+)?", caption)
    return [ring(word) if _NAME.fullmatch(word) else word.lower() for word in words]


class WithNegatives(Wrapped):
    """A source whose samples have negatives as edits: `count` of each kind, or fewer where there are
    not so many.

    - edits: the source's own
    - rule: captions by `rule_negatives`
    - retrieval: captions of other samples by `neighbours`
    - random: other samples, with their image and caption

    Raises InputError for a source without captions, and for an unknown kind.

    >>> from diptych.data.sources import open_source
    >>> source = WithNegatives(open_source("diagrams:count=4"), kinds="rule", count=5)
    >>> [edit.kind for edit in source[0].edits]
    ['rule', 'rule', 'rule', 'rule', 'rule']
    """

    def __init__(
        self, source: Source, *, kinds: str, count: int = 10, role: str = "caption", seed: int = 0
    ):
        super().__init__(source)
        self.kinds = several("kind of negatives", kinds, KINDS)
        self.count = count
        self.role = role
        self.seed = seed
        if f"texts.{role}" not in source.schema():
            raise InputError(
                f"{source.name} has no texts.{role}, of which negatives are made; name another role"
            )
        if "edits" in self.kinds and "edits" not in source.schema():
            raise InputError(
                f"{source.name} has no edits; leave kind edits out, or name a source that has them, such as "
                "diagrams:edits=all"
            )
        self._near: list[list[int]] = []
        if "retrieval" in self.kinds:
            self._rows, captions = self._captions()
            self._near = neighbours(captions, count)

    def _captions(self) -> tuple[dict[int, int], list[str]]:
        """The first caption of each sample that has one, and its row by the sample's index."""
        rows: dict[int, int] = {}
        captions: list[str] = []
        for index in range(len(self.source)):
            try:
                found = self.source[index].captions(self.role)
            except BadSample:
                continue
            if found:
                rows[index] = len(captions)
                captions.append(found[0])
        self._texts = captions
        return rows, captions

    def __getitem__(self, index: int) -> Sample:
        index = range(len(self))[index]
        sample = super().__getitem__(index)
        caption = sample.captions(self.role)[:1]
        edits: list[Sample] = []
        for kind in self.kinds:
            rng = generator(self.seed, "negatives", kind, index)
            if kind == "edits":
                edits += sample.edits[: self.count]
            elif kind == "random":
                edits += self._random(index, caption, rng)
            elif caption:
                texts = (
                    rule_negatives(caption[0], self.count, rng)
                    if kind == "rule"
                    else [self._texts[row] for row in self._near[self._rows[index]]]
                )
                edits += [
                    Sample(
                        key=f"{sample.key}/{kind}{at}",
                        source=self.name,
                        texts=(Text(text=text, role=self.role),),
                        kind=kind,
                    )
                    for at, text in enumerate(texts)
                ]
        return replace(sample, edits=edits)

    def _random(
        self, index: int, caption: Sequence[str], rng: np.random.Generator
    ) -> Iterator[Sample]:
        """Other samples that do not say the same."""
        said = [content(each) for each in caption]
        left = self.count
        for other in rng.permutation(len(self.source))[: 4 * self.count + 1]:
            if left == 0:
                return
            try:
                found = self.source[int(other)]
            except BadSample:  # the loader counts it where it is read for itself
                continue
            texts = found.captions(self.role)[:1]
            if other != index and [content(each) for each in texts] != said:
                left -= 1
                yield replace(found, edits=(), kind="random")

    def schema(self) -> Schema:
        return {**super().schema(), "edits": Field(kind="edit", optional=True)}
