"""Statements about two images, the first on the left and the second on the right.

Half of them are true, whatever they say: an order is turned round in the other half, and what both
images, or one of them, are said to show is as often shown otherwise.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from diptych.data.worlds.scenes.facts import Lot, Scene
from diptych.data.worlds.scenes.words import SIZES, article, plural
from diptych.errors import InputError

TRUTHS = ("false", "true")
"""What a statement can be; the label `true` is the number of one of them."""

_FROM_ONE = 0.75  # of the concepts that not both images show, the share that one of them does


@dataclass(frozen=True, kw_only=True, slots=True)
class Comparison:
    """A statement: its `kind`, a key of FORMS, the concept that it is `about`, and whether it says of
    the left image what it says."""

    kind: str
    about: str = ""
    left: bool = True
    several: bool = False


FORMS = {
    "objects": (
        "there are more objects in the {side} image than in the {other} image.",
        "the {other} image shows fewer objects than the {side} image.",
    ),
    "more": (
        "there are more {many} in the {side} image than in the {other} image.",
        "the {other} image shows fewer {many} than the {side} image.",
    ),
    "larger": (
        "the {named} {be} larger in the {side} image than in the {other} image.",
        "the {named} {be} smaller in the {other} image than in the {side} image.",
    ),
    "both": ("both images show {some}.", "there {be} {some} in each of the two images."),
    "one": ("only one of the images shows {some}.", "one image shows {some}, the other does not."),
}


def holds(comparison: Comparison, left: Scene, right: Scene) -> bool:
    """Whether a statement is true of two images."""
    about = comparison.about
    if comparison.kind in MEASURES:
        measure = MEASURES[comparison.kind]
        more, less = (left, right) if comparison.left else (right, left)
        return measure(more, about) > measure(less, about)
    shown = [_count(scene, about) > 0 for scene in (left, right)]
    return all(shown) if comparison.kind == "both" else any(shown) and not all(shown)


def compared(left: Scene, right: Scene, classes: Sequence[str]) -> tuple[Comparison, bool]:
    """A statement about two images, and whether it is true.

    Raises InputError if there are too few concepts for any.
    """
    lot = Lot(left.seed, "comparison")
    true = lot.chance(0.5)
    for kind in lot.order(tuple(FORMS)):
        found = {truth: _made(kind, truth, left, right, classes, lot) for truth in (False, True)}
        if None not in found.values():  # else the kind would tell whether it is true
            return found[true], true  # type: ignore[return-value]
    raise InputError(
        f"world 'scenes': texts=comparison finds nothing to say of images of {len(classes)} kind of objects; name "
        "more with objects"
    )


def sentence(comparison: Comparison, at: float) -> str:
    """The statement in words, whose form is selected by `at` in [0, 1)."""
    sides = ("left", "right") if comparison.left else ("right", "left")
    about = comparison.about
    return FORMS[comparison.kind][int(at * 2)].format(
        side=sides[0],
        other=sides[1],
        many=plural(about) if about else "",
        named=plural(about) if comparison.several else about,
        some=article(about) if about else "",
        be="are" if comparison.several else "is",
    )


def _made(
    kind: str, true: bool, left: Scene, right: Scene, classes: Sequence[str], lot: Lot
) -> Comparison | None:
    """A statement of a kind with this truth; None if the images permit none."""
    all_shown = sorted({thing.concept for scene in (left, right) for thing in scene.known})
    shared = [name for name in all_shown if _count(left, name) and _count(right, name)]
    single = [name for name in all_shown if name not in shared]
    absent = [name for name in classes if name not in all_shown]
    if kind in ("both", "one"):
        if true == (kind == "both"):
            names = shared
        elif kind == "one":
            names = single
        else:
            names = single if single and lot.chance(_FROM_ONE) else absent
        return Comparison(kind=kind, about=lot.pick(names)) if names else None
    if kind == "objects" and any(thing.foreign for thing in (*left.things, *right.things)):
        return None  # with distractors, the number would be ambiguous
    measure = MEASURES[kind]
    among = {"objects": [""], "more": all_shown, "larger": shared}[kind]
    names = [name for name in among if measure(left, name) != measure(right, name)]
    if not names:
        return None
    about = lot.pick(names)
    most_left = measure(left, about) > measure(right, about)
    several = max(_count(left, about), _count(right, about)) > 1
    return Comparison(kind=kind, about=about, left=most_left == true, several=several)


def _objects(scene: Scene, _: str) -> int:
    return sum(thing.count for thing in scene.known)


def _count(scene: Scene, about: str) -> int:
    return sum(thing.count for thing in scene.known if thing.concept == about)


def _size(scene: Scene, about: str) -> int:
    [size] = [thing.size for thing in scene.known if thing.concept == about]
    return tuple(SIZES).index(size)


MEASURES: dict[str, Callable[[Scene, str], int]] = {
    "objects": _objects,
    "more": _count,
    "larger": _size,
}
"""What is compared, of an image and a concept."""
