"""Parts of any source, selected by options after its name.

    pets/:classes=base                  samples of the first half of the classes; novel: the others; or NAME+NAME
    pets/:shots=16:draw=1               16 samples of each class, drawn at random with seed 1
    pets.csv:shots=16:of=breed          by another label than `class` or the only one with class names
    pets/:part=2/5                      the second of five parts

Whatever their order, classes are selected first, then shots are drawn, then the part is taken.
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
OPTIONS = ("classes", "shots", "draw", "of", "part", "captions")


def narrowed(source: Source, options: Mapping[str, Any]) -> Source:
    """The part of a source selected by options; other options are ignored (`captions` is that of
    `captioned`).

    Raises InputError for a part that the source does not have.
    """
    for name, needs in (("of", ("classes", "shots", "captions")), ("draw", ("shots",))):
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
    """The samples of some classes (base, novel or NAME+NAME), which are renumbered in order.

    Raises InputError for an unknown class, one without a sample, and classes without names or with
    equal names.

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
    """`count` random samples of each class, by the seed `draw`, in the order of the source.

    Draws of a seed are nested: its 4 shots are among its 16. The draw of a class depends only on
    its name and samples, so it does not change if only some classes are selected. A class with
    fewer samples gives all of them, as in CoOp's protocol, with a warning. Raises InputError if a
    class has no samples, or if all classes have fewer than `count`.

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
    """The label that holds a sample's class: `label`, else "class", else the only one with class
    names.

    Raises InputError if there is no such label, or if the choice is ambiguous.
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
    """Which of C classes, in order, are novel (C,) bool: all but the first ceil(C / 2).

    Source: Zhou et al. 2022 (CoCoOp).

    >>> novel_half(3).tolist()
    [False, False, True]
    """
    return np.arange(classes) >= -(-classes // 2)


class Subset(Wrapped):
    """The samples of a source at some rows (K,), in order; `values` (K,) are their labels `label`.

    With `kept` (C,), sorted, labels are replaced by their index in it. `reported` is appended to
    the name.
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
        number = int(found[0]) if len(found) else -1  # an edit may have a class that is not kept
        edits = [self._renumbered(edit) for edit in sample.edits]
        return replace(sample, labels={**sample.labels, self.label: number}, edits=edits)

    def labels(self, name: str) -> np.ndarray:
        """One label of all samples (K,)."""
        return self._values if name == self.label else super().labels(name)

    def schema(self) -> Schema:
        """The fields of the source, with the names of the kept classes."""
        schema = super().schema()
        name = f"labels.{self.label}"
        classes = schema[name].classes
        if self._kept is not None:
            classes = tuple(classes[number] for number in self._kept)
        return {**schema, name: Field(kind=schema[name].kind, classes=classes)}


class Part(Wrapped):
    """One of several contiguous parts of a source: `part="2/5"` is the second of five.

    The parts are disjoint, cover the source, and differ in size by at most one sample; the samples
    that the source lost when it was indexed are divided in the same way. Raises InputError for an
    invalid or empty part.
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
        """The indices of `count` items that belong to this part."""
        return range(count * (self._at - 1) // self._of, count * self._at // self._of)

    @property
    def damage(self) -> Mapping[str, str]:
        """This part's share of the samples that the source lost when it was indexed."""
        lost = list(super().damage.items())
        return dict(lost[at] for at in self._share(len(lost)))
