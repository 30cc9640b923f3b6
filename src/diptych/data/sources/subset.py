"""Parts of any source, by options that may follow the name of each.

    pets/:classes=base                  samples of the first half of the classes; novel: of the others; or NAME+NAME
    pets/:shots=16:draw=1               16 samples of each class, drawn at random by the seed 1
    pets.csv:shots=16:of=breed          by a label that is neither `class` nor the only one with class names
    pets/:part=2/5                      the second of five parts

Classes are chosen first, of these the shots are drawn, and the part is cut last, in whatever order
they are written.
"""

import logging
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from diptych.data.sample import Field, Sample, Schema, Source, labels_of
from diptych.data.wrap import Wrapped
from diptych.errors import InputError, some, unknown
from diptych.rng import generator
from diptych.spec import several

log = logging.getLogger(__name__)
OPTIONS = ("classes", "shots", "draw", "of", "part")


def narrowed(source: Source, options: Mapping[str, Any]) -> Source:
    """The part of a source that options name; others than OPTIONS are passed over.

    Raises InputError for what cannot be had of the source.
    """
    for name, needs in (("of", ("classes", "shots")), ("draw", ("shots",))):
        if name in options and not any(need in options for need in needs):
            raise InputError(
                f"{source.name}: {name}= goes with {'= or '.join(needs)}=; add it, or leave {name}= out"
            )
    label = str(options["of"]) if "of" in options else None
    if "classes" in options:
        source = of_classes(source, str(options["classes"]), label)
    if "shots" in options:
        source = shots(source, options["shots"], options.get("draw", 0), label)
    if "part" in options:
        source = Part(source, str(options["part"]))
    return source


def of_classes(source: Source, classes: str, label: str | None = None) -> "Subset":
    """The samples of some classes, which are numbered anew in their order: `classes` is base, novel
    or NAME+NAME.

    Raises InputError for an unknown class, one without a sample, and classes without names or with
    one name.

    >>> from diptych.data.sources import open_source
    >>> source = of_classes(open_source("glyphs:split=test"), "base", "group")
    >>> source.schema()["labels.group"].classes[-1], int(source.labels("group").max())
    ('travel-places', 4)
    """
    label = class_label(source, label)
    names = source.schema()[f"labels.{label}"].classes
    if not names:
        raise InputError(
            f"the classes of label {label!r} of {source.name} have no names to choose them by; give names"
        )
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise InputError(
            f"two classes of label {label!r} of {source.name} have the name {twice[0]!r}; rename one"
        )
    if classes in ("base", "novel"):
        chosen = novel_half(len(names)) == (classes == "novel")
    else:
        chosen = np.isin(
            names, several(f"class of {source.name}", classes, names, also=("base", "novel"))
        )
    kept = np.flatnonzero(chosen)
    if not len(kept):
        raise InputError(
            f"label {label!r} of {source.name} has {len(names)} class, so none is {classes}; add classes"
        )
    values = labels_of(source, label)
    if empty := np.setdiff1d(kept, values).tolist():
        raise InputError(
            f"no sample of {source.name} is of the class{'es' if len(empty) > 1 else ''} "
            f"{some(names[number] for number in empty)}; choose others with :classes=NAME+NAME, or take more data"
        )
    rows = np.flatnonzero(np.isin(values, kept))
    return Subset(source, rows, f"classes={classes}", label, values[rows], kept)


def shots(source: Source, count: int, draw: int = 0, label: str | None = None) -> "Subset":
    """`count` samples of each class, drawn at random by the seed `draw`, in the order of the
    source.

    The first shots of a seed are among its further ones: its 4 are contained in its 16. What is
    drawn of a class depends on its name and its own samples alone, so it is the same where only
    some classes are chosen. A class with fewer samples gives all it has, as in CoOp's protocol, and
    a warning tells. Raises InputError where a class has none, and where all have fewer.

    >>> from diptych.data.sources import open_source
    >>> source = shots(open_source("glyphs:split=test"), 2, label="group")
    >>> len(source), np.bincount(source.labels("group")).tolist()
    (18, [2, 2, 2, 2, 2, 2, 2, 2, 2])
    """
    if type(count) is not int or count < 1:
        raise InputError(
            f"shots={count} of {source.name} is no number of samples; write 1 or more, such as :shots=16"
        )
    if type(draw) is not int:
        raise InputError(
            f"draw={draw} of {source.name} is no seed; write a whole number, such as :draw=1"
        )
    label = class_label(source, label)
    names = source.schema()[f"labels.{label}"].classes
    values = labels_of(source, label)
    numbers = np.arange(len(names)) if names else np.unique(values[values >= 0])
    order = np.argsort(values, kind="stable")
    starts, ends = (np.searchsorted(values[order], numbers, side) for side in ("left", "right"))
    called = names or numbers.tolist()
    sizes = dict(zip(called, (ends - starts).tolist(), strict=True))
    few = [f"{name} ({size})" for name, size in sizes.items() if size < count]
    if len(few) == len(sizes) or not all(sizes.values()):
        few = [f"{name} (0)" for name, size in sizes.items() if not size] or few
        raise InputError(
            f"shots={count} of {source.name} are more than there are of {some(few) or 'any class'}; ask for fewer, "
            "or leave classes out with :classes=NAME+NAME"
        )
    if few:
        log.warning("shots=%d of %s: %s have fewer, and give all", count, source.name, some(few))
    drawn = [
        order[start:end][generator(draw, "shots", name).permutation(end - start)[:count]]
        for name, start, end in zip(called, starts, ends, strict=True)
    ]
    rows = np.sort(np.concatenate(drawn))
    return Subset(source, rows, f"shots={count}:draw={draw}", label, values[rows])


def class_label(source: Source, label: str | None = None) -> str:
    """The label that tells a sample's class: the one asked for, else "class", else the only one
    with class names.

    Raises InputError for one that is not there, and where it would have to be guessed.
    """
    fields = {
        name.removeprefix("labels."): field
        for name, field in source.schema().items()
        if name.startswith("labels.") and field.kind == "int"
    }
    if not fields:
        raise InputError(
            f"{source.name} has no label that tells classes; put the images of each class into a folder of their "
            "own, or name a table's column with :label=COLUMN"
        )
    if label is not None:
        if label not in fields:
            raise unknown(f"label of {source.name}", label, fields)
        return label
    named = [name for name, field in fields.items() if field.classes]
    if "class" in fields or len(named) == 1:
        return "class" if "class" in fields else named[0]
    raise InputError(
        f"{source.name} has no one label of classes; choose by :of=LABEL of {', '.join(named or fields)}"
    )


def novel_half(classes: int) -> np.ndarray:
    """Which of so many classes, in the order of their numbers, are novel (C,) bool: all but the
    first ceil(C / 2).

    Source: Zhou et al. 2022 (CoCoOp).

    >>> novel_half(3).tolist()
    [False, False, True]
    """
    return np.arange(classes) >= -(-classes // 2)


class Subset(Wrapped):
    """The samples of a source at some rows (K,), in order; their labels `label` are `values` (K,),
    which none lacks.

    With `kept` (C,), sorted, that label's numbers become their places in it. `reported` is what the
    name says.
    """

    def __init__(
        self,
        source: Source,
        rows: np.ndarray,
        reported: str,
        label: str,
        values: np.ndarray,
        kept: np.ndarray | None = None,
    ):
        super().__init__(source, rows, f"{source.name.rstrip('/')}:{reported}")
        self.label = label
        self._kept = kept
        self._values = values if kept is None else np.searchsorted(kept, values)

    def __getitem__(self, index: int) -> Sample:
        sample = super().__getitem__(index)
        return sample if self._kept is None else self._renumbered(sample)

    def _renumbered(self, sample: Sample) -> Sample:
        if self.label not in sample.labels:
            return sample
        found = np.flatnonzero(self._kept == sample.labels[self.label])
        number = int(found[0]) if len(found) else -1  # an edit may be of a class that is not kept
        edits = [self._renumbered(edit) for edit in sample.edits]
        return replace(sample, labels={**sample.labels, self.label: number}, edits=edits)

    def labels(self, name: str) -> np.ndarray:
        """One label of every sample (K,)."""
        return self._values if name == self.label else super().labels(name)

    def schema(self) -> Schema:
        """The fields of the source; of the label, the names of the classes that are kept."""
        schema = super().schema()
        name = f"labels.{self.label}"
        classes = schema[name].classes
        if self._kept is not None:
            classes = tuple(classes[number] for number in self._kept)
        return {**schema, name: Field(kind=schema[name].kind, classes=classes)}


class Part(Wrapped):
    """The samples of a source from one place to another, in order: `part="2/5"` is the second of
    five parts.

    Parts share nothing, together are the whole, and differ in size by one sample at most; so it is
    with what the source lost while it was indexed. Raises InputError for what is no such part, or
    one without a sample.
    """

    def __init__(self, source: Source, part: str):
        found = re.fullmatch(r"([1-9]\d*)/([1-9]\d*)", part)
        if found is None or int(found[1]) > int(found[2]):
            raise InputError(
                f"part={part} of {source.name} is none; write :part=1/N to :part=N/N, such as part=2/5"
            )
        self._at = int(found[1])
        self._of = int(found[2])
        super().__init__(source, self._share(len(source)), f"{source.name}:part={part}")
        if not self.rows:
            raise InputError(
                f"part={part} of {source.name} is empty: it has {len(source)} samples; ask for fewer parts"
            )

    def _share(self, count: int) -> range:
        """Which of `count` things in order are this part's."""
        return range(count * (self._at - 1) // self._of, count * self._at // self._of)

    @property
    def damage(self) -> Mapping[str, str]:
        """This part's share of what the source lost while it was indexed."""
        lost = list(super().damage.items())
        return dict(lost[at] for at in self._share(len(lost)))
