"""Questions about a figure that its drawing answers, one fact each, of the kinds of its edits.

letters     which letter is at a corner, a foot or a centre
shape       the name of the shape that the caption states, which is the narrowest
relation    which relation is marked
number      the length that is written beside a side

No question states the answer to another one. That of the letters is the first: the name of a side would
help it in a dialogue.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from diptych.data.worlds.diagrams.edits import EDITS
from diptych.data.worlds.diagrams.figures import SHAPES, Figure, program_of
from diptych.data.worlds.diagrams.program import CIRCLES, LINES, MARKS, sides_of
from diptych.rng import generator

ASKED = EDITS[:-1]
"""The kinds of questions: those of the edits that change a fact."""
CHOICES = 4
"""The most choices of a question."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Question:
    """A question with its only right answer, and up to four choices that include it."""

    kind: str
    text: str
    answer: str
    choices: tuple[str, ...]


def questions_of(
    figure: Figure, kinds: Sequence[str], numbers: tuple[int, ...]
) -> tuple[Question, ...]:
    """Return the questions of some kinds, in the order letters, shape, relation, number: one of each,
    and one for each length.

    An edit of a figure is asked the same as far as its letters permit.

    >>> from diptych.data.worlds.diagrams import Config, World
    >>> for each in questions_of(World(Config()).sample(0, 1), ASKED, (2, 3, 4, 5, 6)):
    ...     print(each.text, each.answer, sorted(each.choices))
    which corner is opposite to D? F ['A', 'F', 'P']
    which shape is drawn? square ['kite', 'rectangle', 'square', 'trapezoid']
    which relation is marked? perpendicular ['equal', 'parallel', 'perpendicular']
    how long is PF? 5 ['2', '4', '5', '6']
    """
    found = []
    for kind, ask in _ASKS.items():
        if kind in kinds:
            rng = generator(figure.seed, "question", kind)
            for text, answer, values in ask(figure, rng, numbers):
                choices = _choices(answer, values, rng)
                found.append(Question(kind=kind, text=text, answer=answer, choices=choices))
    return tuple(found)


_Asked = list[tuple[str, str, Sequence[str]]]
"""Questions, each with its answer and all values that it may have."""


def _choices(answer: str, values: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """The answer and other values, in random order."""
    others = [value for value in values if value != answer]
    kept = [others[int(at)] for at in rng.permutation(len(others))[: CHOICES - 1]]
    kept.insert(int(rng.integers(len(kept) + 1)), answer)
    return tuple(kept)


def _letters(figure: Figure, rng: np.random.Generator, numbers: tuple[int, ...]) -> _Asked:
    corners = figure.letters[: figure.corners]
    kind, one, other = figure.relation
    if kind not in MARKS:
        return [("which point is no corner?", figure.letters[-1], figure.letters)]
    if figure.corners == 3:
        sides = sides_of(corners)
        [corner] = set(sides[one]) & set(sides[other])
        return [("at which corner do the marked sides meet?", corner, corners)]
    # of the letters in the order of the alphabet, so that an edit is asked about the same one
    asked = sorted(corners)[int(rng.integers(4))]
    opposite = corners[(corners.index(asked) + 2) % 4]
    others = corners.replace(asked, "")
    return [(f"which corner is opposite to {asked}?", opposite, others)]


def _shape(figure: Figure, rng: np.random.Generator, numbers: tuple[int, ...]) -> _Asked:
    shapes = [shape for shape, corners in SHAPES.items() if len(corners) == figure.corners]
    return [("which shape is drawn?", figure.shape, shapes)]


def _relation(figure: Figure, rng: np.random.Generator, numbers: tuple[int, ...]) -> _Asked:
    kind = figure.relation[0]
    [group] = [group for group in (MARKS, LINES, CIRCLES) if kind in group]
    return [("which relation is marked?", kind, group)]


def _number(figure: Figure, rng: np.random.Generator, numbers: tuple[int, ...]) -> _Asked:
    values = [str(number) for number in numbers]
    return [
        (f"how long is {segment}?", value, values) for segment, value in program_of(figure).lengths
    ]


_ASKS: dict[str, Callable[[Figure, np.random.Generator, tuple[int, ...]], _Asked]] = {
    "letters": _letters,
    "shape": _shape,
    "relation": _relation,
    "number": _number,
}
