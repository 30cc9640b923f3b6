"""The items of a source: `Sample`, with lazily decoded images, and the `Schema` of its fields.

Fields have dotted names everywhere: `images.main`, `texts.caption`, `labels.class`, `boxes`,
`boxes.mask` (the mask of each box's object), `masks.object`, `arrays.volume`, `edits`.
`images.frames` is a clip (`diptych.data.clips`), and `images.main` beside it one of its frames.
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from PIL import Image

from diptych.errors import InputError, some, unknown

_KEYS = 65_536  # hashed at once


class BadSample(Exception):
    """A damaged sample, which is counted under `reason` (a short slug such as "truncated") and
    replaced."""

    def __init__(self, reason: str, detail: str = ""):
        super().__init__(f"{reason}: {detail}" if detail else reason)
        self.reason = reason
        self.detail = detail

    def __reduce__(self):  # pickled with both arguments by worker processes
        return type(self), (self.reason, self.detail)


def keys_digest(source: "Source") -> str:
    """SHA-256 of a source's keys in order, in one pass; ten million keys take seconds."""
    total = hashlib.sha256()
    keys = source.keys()
    for start in range(0, len(keys), _KEYS):
        text = "\n".join(keys[start : start + _KEYS])
        total.update(("\n" * bool(start) + text).encode("utf-8", "surrogatepass"))
    return total.hexdigest()


def damage_summary(damaged: Mapping[str, str]) -> str:
    """Damaged samples (key -> reason) as text: counts by reason, and some of the keys.

    >>> damage_summary({"a.png": "truncated", "b.png": "html", "c.png": "truncated"})
    '2 truncated, 1 html; such as a.png, b.png, c.png'
    """
    reasons = ", ".join(
        f"{count} {reason}" for reason, count in Counter(damaged.values()).most_common()
    )
    return f"{reasons}; such as {some(damaged)}"


def lost_samples(source: "Source") -> Counter[str]:
    """The numbers of samples, by reason, that were lost when a source was opened, such as lines that
    cannot be read. They are none of its items."""
    return Counter(getattr(source, "damage", {}).values())


def whole(text: str) -> str:
    """The text with lone surrogates, which UTF-8 cannot encode, replaced by the replacement
    character.

    >>> whole("a\\ud83d")
    'a�'
    """
    return (
        text
        if text.isascii()
        else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    )


def image_of(page: int) -> str:
    """The role of image number `page` of a document.

    >>> image_of(0), image_of(1)
    ('main', 'page2')
    """
    return "main" if page == 0 else f"page{page + 1}"


def path_text(path: str) -> str:
    """A path as text, with bytes of the name that are not valid UTF-8 written as `\\xNN`.

    >>> path_text("caf\\udce9.png")
    'caf\\\\xe9.png'
    """
    try:
        return path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # a surrogate that encodes no byte
        return whole(path)


class EncodedImage(Protocol):
    """An image not yet decoded."""

    def decode(self, at_least: int | None = None) -> Image.Image:
        """The image as RGB, or RGBA if it has transparency, rotated upright; raises BadSample.

        `at_least` permits a smaller image, if that is faster, whose short side has at least this
        many pixels.
        """
        ...

    def read(self) -> bytes:
        """The encoded bytes, for checksums and duplicates; raises BadSample if they cannot be
        read."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Text:
    """One text of a sample. Roles: caption, web, synthetic, long, question, answer, findings, ocr,
    …"""

    text: str
    role: str = "caption"
    attrs: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True, slots=True)
class Box:
    """A rectangle (x0, y0, x1, y1) in pixels of the image `image`, with its text or label, and the mask
    of the object in it: an image of the same size, 0 outside of the object."""

    xyxy: tuple[float, float, float, float]
    text: str = ""
    label: int = -1
    image: str = "main"
    mask: EncodedImage | None = field(default=None, compare=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class Sample:
    """One example. `key` is unique in its source; missing labels are -1 (int) or NaN (float)."""

    key: str
    source: str
    images: Mapping[str, EncodedImage] = field(default_factory=dict)
    texts: Sequence[Text] = ()
    labels: Mapping[str, int | float] = field(default_factory=dict)
    boxes: Sequence[Box] = ()
    masks: Mapping[str, EncodedImage] = field(default_factory=dict)
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict)
    edits: Sequence["Sample"] = ()
    kind: str = ""  # of an edit: what it changed ("swap", "recolour", …)

    def captions(self, role: str = "caption") -> list[str]:
        """The texts of one role, in order (`"*"`: of every role)."""
        return [text.text for text in self.texts if role in (text.role, "*")]


@dataclass(frozen=True, kw_only=True, slots=True)
class Field:
    """One field of a schema: `kind` is image, text, int, float, box, mask, array or edit."""

    kind: str
    optional: bool = False
    classes: tuple[str, ...] = ()  # names of the labels 0, 1, …
    stuff: tuple[str, ...] = ()  # those of the classes that are no countable things


Schema = Mapping[str, Field]


@runtime_checkable
class Source(Protocol):
    """Random access to samples. A source pickles cheaply (each worker process gets a copy) and
    reads lazily."""

    name: str

    def __len__(self) -> int: ...

    def __getitem__(self, index: int) -> Sample:
        """The sample, whose images are read when decoded. Raises BadSample if its texts cannot be
        read."""
        ...

    def keys(self) -> Sequence[str]:
        """The unique keys in order, without reading images."""
        ...

    def schema(self) -> Schema: ...


def missing(field: Field | None) -> int | float:
    """The value of a label that a sample lacks: NaN of floats, else -1."""
    return math.nan if field is not None and field.kind == "float" else -1


def real_label(sample: Sample, label: str) -> float:
    """A label as a number that measures, NaN if it is missing: -1 of a label of integers."""
    value = sample.labels.get(label, -1)
    return math.nan if isinstance(value, int | np.integer) and value == -1 else float(value)


def real_labels_of(source: Source, label: str) -> np.ndarray:
    """One label of all samples (N,) as `real_label` gives it, without decoding images."""
    values = labels_of(source, label)
    whole = values.dtype.kind in "iu"
    return np.where(values == -1, np.nan, values) if whole else values.astype(np.float64)


def labels_of(source: Source, label: str, rows: np.ndarray | range | None = None) -> np.ndarray:
    """One label of all samples (N,), or of those at `rows` (K,), without decoding images; a missing
    one is -1, or NaN where the label is of floats.

    Raises InputError if the source has no such label.
    """
    schema = source.schema()
    if f"labels.{label}" not in schema:
        raise InputError(f"{source.name} has no labels.{label}; its fields are {', '.join(schema)}")
    field = schema[f"labels.{label}"]
    given = getattr(source, "labels", None)
    if given is None:
        read = range(len(source)) if rows is None else rows
        return np.array([source[int(row)].labels.get(label, missing(field)) for row in read])
    values = np.asarray(given(label))
    if isinstance(rows, range):  # NumPy would convert it number by number
        rows = np.arange(rows.start, rows.stop, rows.step)
    return values if rows is None else values[rows]


def label_values(source: Source, label: str, names: str | int) -> tuple[int, ...]:
    """Some values of an integer label: a number, or names of classes or numbers joined by `+`.

    Raises InputError for a label or a class that does not exist, and for a label of floats.

    >>> from diptych.testing import Toy
    >>> label_values(Toy(8, ["labels.colour"]), "colour", "orange+7")
    (1, 7)
    """
    field = source.schema().get(f"labels.{label}")
    if field is None:
        labels_of(source, label, range(0))  # raises
    assert field is not None
    if field.kind != "int":
        raise InputError(
            f"labels.{label} of {source.name} holds floats, which name no kinds of samples; name a label of integers"
        )
    if isinstance(names, int):
        return (names,)
    found = []
    for name in [names] if names in field.classes else names.split("+"):
        if name not in field.classes and not re.fullmatch("-?[0-9]+", name):
            raise unknown(f"value of labels.{label} of {source.name}", name, field.classes)
        found.append(field.classes.index(name) if name in field.classes else int(name))
    return tuple(found)


def is_visual(sample: Sample, label: str | None = None, role: str = "main") -> bool:
    """Whether a sample's texts are visual: `label` is 1, or, without a label, it has an image of
    `role`.

    Raises BadSample("no-label") if the label is neither 0 nor 1, since the sample is then no
    example of either.
    """
    if label is None:
        return role in sample.images
    value = sample.labels.get(label, -1)
    if value not in (0, 1):
        raise BadSample("no-label", f"label {label!r} is {value}, not 0 or 1")
    return bool(value)
